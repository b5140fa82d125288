"""From searches to thresholds, and the entries of certificates.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from benchmarks.recovery.certificate.searches import Search
from benchmarks.recovery.certificate.tasks import EPOCHS, Tasks, name_of

PRECISION, OF_A_CELL, LOWEST = 0.995, 0.98, 0.95
COVERED = 0.99


def figures(searches: Sequence[Search], threshold: float | None) -> dict[str, Any]:
    """How many are at the threshold or below, how many of them succeeded, precision and interval."""
    below = [search.success for search in searches if threshold is not None and search.distance <= threshold]
    hits = sum(below)
    interval = binomtest(hits, len(below)).proportion_ci(method="wilson") if below else None
    return {
        "searches": len(searches),
        "below": len(below),
        "hits": hits,
        "precision": hits / len(below) if below else None,
        "interval": [float(interval.low), float(interval.high)] if interval else None,
    }


def is_safe(searches: Sequence[Search], threshold: float) -> bool:
    """Whether precision and interval are good enough over all cells, and the precision in each."""
    found = figures(searches, threshold)
    if not found["below"] or found["precision"] < PRECISION or found["interval"][0] < LOWEST:
        return False
    cells = {search.cell for search in searches}
    alone = (figures([s for s in searches if s.cell == cell], threshold)["precision"] for cell in cells)
    return all(precision is None or precision >= OF_A_CELL for precision in alone)


def largest_threshold(searches: Sequence[Search]) -> float | None:
    """The largest distance that certifies, rounded down to two digits; None where there is none."""
    good = sorted(search.distance for search in searches if search.success)
    enough = good[math.ceil(COVERED * len(good)) - 1] if good else 0.0
    finite = {search.distance for search in searches if 0.0 < search.distance <= enough}
    for distance in sorted(finite, reverse=True):
        digits = 10.0 ** (math.floor(math.log10(distance)) - 1)
        threshold = float(f"{math.floor(distance / digits) * digits:.1e}")
        if is_safe(searches, threshold):
            return threshold
    return None


def family(
    tasks: Tasks, searches: Sequence[Search], lines: Sequence[dict[str, Any]], threshold: float | None
) -> dict[str, Any]:
    """The entry of certificates.json."""
    ((distance, bandwidth),) = {tuple(line["distance"]) for line in lines}
    ((channels, side, _),) = {tuple(line["input_shape"]) for line in lines}
    sizes = sorted({line["batch_size"] for line in lines})
    measured = dict.fromkeys(f"{line['network']} ({line['initialisation']})" for line in lines)
    return {
        "name": name_of(tasks, lines[0]["layers"]),
        "piecewise_linear": tasks.piecewise_linear,
        "distance": distance,
        "bandwidth": bandwidth,
        "channels": channels,
        "sides": [side, side],
        "batch_sizes": [sizes[0], sizes[-1]],
        "layers": [lines[0]["layers"]] * 2,
        "operators": sorted({name for line in lines for name in line["operators"]}),
        "threshold": threshold,
        **figures(searches, threshold),
        "measured_on": f"{tasks.data.upper()}, {', '.join(measured)}, untrained and after {EPOCHS} epochs; "
        f"{len({search.victim for search in searches})} victims",
    }


def part_of(
    searches: Sequence[Search], lines: Sequence[dict[str, Any]], layers: int
) -> tuple[list[Search], list[dict[str, Any]]]:
    """Those on networks of so many layers."""
    mine = [search for search in searches if lines[search.cell]["layers"] == layers]
    return mine, [line for line in lines if line["layers"] == layers]


def winners(searches: Sequence[Search]) -> list[Search]:
    """Of each victim the search with the lowest distance."""
    best: dict[int, Search] = {}
    for search in searches:
        if search.victim not in best or search.distance < best[search.victim].distance:
            best[search.victim] = search
    return list(best.values())


def replaced(path: Path, entries: Sequence[dict[str, Any]], **content: Any) -> None:
    """Put the entries into the file's list of families, in place of those of their names."""
    kept = json.loads(path.read_text(encoding="utf-8"))["families"] if path.exists() else []
    known = {entry["name"]: entry for entry in (*kept, *entries)}
    content["families"] = [known[name] for name in sorted(known)]
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
