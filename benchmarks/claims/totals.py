"""One line a method: what it recovers over all initialisations, by data set and phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.claims.images import COMPARED_RESTARTS
from benchmarks.claims.methods import LABELS
from benchmarks.claims.summary import recovered_by_first, wilson
from benchmarks.markdown import table

__all__ = ["totals_table"]


def totals_table(results: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    """The methods that were tried wherever ``sapag`` was, the most successful first; empty where there is
    nothing to add up.
    """
    parts = sorted({_part(found) for found in results}, key=lambda part: (part[0], part[1] == "trained"))
    places = {part: _places(results, part, "sapag") for part in parts}
    lines = []
    for method in methods:
        entries = [
            _entry(results, part, method) if _places(results, part, method) == places[part] else ""
            for part in parts
        ]
        if all(entries):
            lines.append([LABELS.get(method, method), *entries])
            if method == "sapag":
                few = [_entry(results, part, method, COMPARED_RESTARTS) for part in parts]
                lines.append([f"SAPAG, {COMPARED_RESTARTS} restarts", *few])
    if len(lines) < 3 or all(len(place) < 2 for place in places.values()):
        return ""
    lines.sort(key=lambda line: -sum(int(entry.partition("/")[0]) for entry in line[1:]))
    head = ["over all initialisations", *(f"{data}, {phase}" for data, phase in parts)]
    return table(head, lines)


def _part(found: Mapping[str, Any]) -> tuple[str, str]:
    return found["settings"]["dataset"], "trained" if found["settings"]["epochs"] else "untrained"


def _places(results: Sequence[Mapping[str, Any]], part: tuple[str, str], method: str) -> set[str]:
    return {found["settings"]["initialisation"] for found in _chosen(results, part, method)}


def _chosen(
    results: Sequence[Mapping[str, Any]], part: tuple[str, str], method: str
) -> list[Mapping[str, Any]]:
    return [found for found in results if _part(found) == part and found["settings"]["method"] == method]


def _entry(
    results: Sequence[Mapping[str, Any]], part: tuple[str, str], method: str, restarts: int | None = None
) -> str:
    """``12/120 [6, 17]``: how many, and Wilson's interval in per cent; by the first restarts alone, where
    `restarts` says how many of them.
    """
    victims = [victim for found in _chosen(results, part, method) for victim in found["victims"]]
    hits = sum(victim["success"] for victim in victims)
    if restarts is not None:
        hits = recovered_by_first(victims, restarts)
    low, high = wilson(hits, len(victims))
    return f"{hits}/{len(victims)} [{100 * low:.0f}, {100 * high:.0f}]"
