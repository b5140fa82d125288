"""One line a method: what it recovers over all initialisations, by data set and phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.claims.images import COMPARED_RESTARTS
from benchmarks.claims.methods import LABELS
from benchmarks.claims.summary import recovered_by_first, wilson
from benchmarks.report.markdown import table

__all__ = ["totals_table"]


def totals_table(results: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    """The methods that were tried wherever ``sapag`` was, the most successful first; empty where there is
    nothing to add up.
    """
    parts = sorted({_part(found) for found in results}, key=lambda part: (part[0], part[1] == "trained"))
    places = {part: _places(results, part, "sapag") for part in parts}
    counts = {}
    for method in methods:
        if all(_places(results, part, method) == places[part] for part in parts):
            victims = [_victims(results, part, method) for part in parts]
            counts[LABELS.get(method, method)] = [(sum(v["success"] for v in vs), len(vs)) for vs in victims]
            if method == "sapag":
                few = [(recovered_by_first(vs, COMPARED_RESTARTS), len(vs)) for vs in victims]
                counts[f"SAPAG, {COMPARED_RESTARTS} restarts"] = few
    if len(counts) < 3 or all(len(place) < 2 for place in places.values()):
        return ""
    ordered = sorted(counts, key=lambda name: -sum(hits for hits, _ in counts[name]))
    head = ["over all initialisations", *(f"{data}, {phase}" for data, phase in parts)]
    return table(head, [[name, *(_share(*count) for count in counts[name])] for name in ordered])


def _part(found: Mapping[str, Any]) -> tuple[str, str]:
    return found["settings"]["dataset"], "trained" if found["settings"]["epochs"] else "untrained"


def _places(results: Sequence[Mapping[str, Any]], part: tuple[str, str], method: str) -> set[str]:
    return {found["settings"]["initialisation"] for found in _chosen(results, part, method)}


def _chosen(
    results: Sequence[Mapping[str, Any]], part: tuple[str, str], method: str
) -> list[Mapping[str, Any]]:
    return [found for found in results if _part(found) == part and found["settings"]["method"] == method]


def _victims(
    results: Sequence[Mapping[str, Any]], part: tuple[str, str], method: str
) -> list[Mapping[str, Any]]:
    return [victim for found in _chosen(results, part, method) for victim in found["victims"]]


def _share(hits: int, trials: int) -> str:
    """``12/120 [6, 17]``: how many, and Wilson's interval in per cent."""
    low, high = wilson(hits, trials)
    return f"{hits}/{trials} [{100 * low:.0f}, {100 * high:.0f}]"
