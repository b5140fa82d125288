"""What the package's certificates say of victims that nothing was set on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recovery.certificate.tasks import (
    PARTS,
    Cell,
    Material,
    Tasks,
    cells,
    layers_of,
    name_of,
)
from benchmarks.shared.interleaved import machine
from benchmarks.shared.victims import SUCCESS, shared_gradients, succeeded
from sapag_fast.recovery.certificate import families
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import Recovery

FRESH = PARTS.index("fresh")


@dataclass(frozen=True)
class Fresh:
    """How a cell is measured."""

    victims: int | None = None
    restarts: int = 2


def thresholds() -> dict[str, float]:
    """The package's, by family; only families that have one."""
    return {known.name: known.threshold for known in families() if known.threshold is not None}


def measure_fresh(tasks: Tasks, folder: Path, file: Path, settings: Fresh) -> None:
    """Run the cells that the file lacks, and put each into it as soon as it is known."""
    known = thresholds()
    if not any(name.rpartition(", ")[0] == tasks.name for name in known):
        print(f"{tasks.name}: no family has a threshold, nothing is certified", flush=True)
        return
    material = Material.read(tasks.data, folder, FRESH)
    own, count = machine(), settings.victims or tasks.victims
    for cell in cells(tasks):
        key = {
            "tasks": tasks.name,
            "cell": str(cell),
            "victims": count,
            "restarts": settings.restarts,
            "commit": own["commit"],
        }
        if is_kept(file, key):
            continue
        line = key | measure_cell(tasks, material, cell, key, known)
        keep(file, line, own)
        print(json.dumps(line), flush=True)


def measure_cell(
    tasks: Tasks, material: Material, cell: Cell, key: Mapping[str, Any], known: Mapping[str, float]
) -> dict[str, Any]:
    """One cell's line."""
    began = time.perf_counter()
    model, accuracy = material.network(cell)
    images, labels = material.victims(tasks, cell, key["victims"])
    found = recover(
        model,
        shared_gradients(model, images, labels),
        material.shape,
        batched=True,
        batch_size=cell.batch_size,
        restarts=key["restarts"],
        seed=material.part,
        exact="off",
    )
    name = name_of(tasks, layers_of(model))
    good = [succeeded(mine, truth) for mine, truth in zip(found.inputs, images, strict=True)]
    return {
        "family": name,
        "network": cell.network,
        "initialisation": cell.initialisation,
        "phase": cell.phase,
        "batch_size": cell.batch_size,
        "accuracy": accuracy,
        "threshold": known.get(name),
        **counts(found, good, known.get(name)),
        "seconds": round(time.perf_counter() - began, 1),
    }


def counts(found: Recovery, good: Sequence[bool], threshold: float | None) -> dict[str, Any]:
    """What was found, what of it is close, and what is certified; evaluations of checks and searches.

    *Close*: at the threshold or below. Evaluations are those of the victims that were checked.
    """
    close = [threshold is not None and distance <= threshold for distance in found.distance.tolist()]
    both = [a and b for a, b in zip(close, good, strict=True)]
    certified = [certificate.certified for certificate in found.certificate]
    checks = [certificate.check for certificate in found.certificate]
    searched = zip(found.evaluations.tolist(), checks, strict=True)
    reasons = (certificate.reason for certificate in found.certificate)
    return {
        "recovered": sum(good),
        "close": sum(close),
        "close and recovered": sum(both),
        "certified": sum(certified),
        "certified and wrong": sum(a and not b for a, b in zip(certified, good, strict=True)),
        "kept": sum(a and b for a, b in zip(both, certified, strict=True)),
        "evaluations of checks": sum(check.evaluations for check in checks if check is not None),
        "evaluations of searches": sum(count for count, check in searched if check is not None),
        "reasons": sorted({reason for reason in reasons if reason}),
    }


def _lines(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text(encoding="utf-8"))["cells"] if file.exists() else []


def is_kept(file: Path, key: Mapping[str, Any]) -> bool:
    """Whether the file holds the cell, from the same sources and settings.

    Sources that were changed since their commit are no sources to name.
    """
    if key["commit"] == "unknown" or str(key["commit"]).endswith("-dirty"):
        return False
    return any(all(line[name] == key[name] for name in key) for line in _lines(file))


def keep(file: Path, line: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Put a cell's line into the file, in place of the one that is there."""
    place = ("tasks", "cell")
    others = [old for old in _lines(file) if any(old[name] != line[name] for name in place)]
    content = {
        "benchmark": "certificate_fresh",
        "success": f"mse < {SUCCESS}",
        **own,
        "cells": sorted((*others, line), key=lambda each: [each["family"], each["tasks"]]),
    }
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
