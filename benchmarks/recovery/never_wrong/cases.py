"""All cases."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.recovery.never_wrong import bounds, certificates, labels, losses, modes, text
from benchmarks.recovery.never_wrong.case import Case

__all__ = ["CASES", "chosen"]

CASES: list[Case] = [
    *certificates.CASES,
    *labels.CASES,
    *losses.CASES,
    *bounds.CASES,
    *modes.CASES,
    *text.CASES,
]


def chosen(words: Sequence[str]) -> list[Case]:
    """Those with one of the words in their name or kind; without words all."""
    return [
        case for case in CASES if not words or any(word in case.name or word in case.kind for word in words)
    ]
