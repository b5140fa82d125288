"""Searches of known truth: where each restart ended, and whether there was the truth."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from benchmarks.recovery.certificate.tasks import PARTS, Cell, Material, Tasks, cells, layers_of
from benchmarks.shared.victims import shared_gradients, succeeded
from sapag_fast.recovery.certificate import SHAPING
from sapag_fast.recovery.recover import recover
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.prepare import Targets, prepare


@dataclass(frozen=True)
class Search:
    """One restart: where it ended, whether there was the truth."""

    cell: int
    victim: int
    distance: float
    success: bool


def measure(tasks: Tasks, material: Material) -> tuple[list[Search], list[dict[str, Any]]]:
    """All searches on the material, and a line a cell."""
    searches, lines = [], []
    for cell in cells(tasks):
        mine, line = measure_cell(tasks, material, cell)
        searches += mine
        lines.append(line)
        print(
            f"{tasks.name} {PARTS[material.part]}: {cell}: "
            f"success {line['success']:.2f}, distances of successes up to "
            f"{line['largest distance of a success'] or math.nan:.2g}, of failures from "
            f"{line['least distance of a failure'] or math.nan:.2g}, {line['seconds']} s",
            flush=True,
        )
    return searches, lines


def measure_cell(tasks: Tasks, material: Material, cell: Cell) -> tuple[list[Search], dict[str, Any]]:
    """The searches of one cell, and its line."""
    began = time.perf_counter()
    model, accuracy = material.network(cell)
    images, labels = material.victims(tasks, cell, tasks.victims)
    shared = shared_gradients(model, images, labels)
    options = SearchOptions(restarts=tasks.restarts, stop_certified=False, seed=material.part, exact="off")
    found = recover(model, shared, material.shape, batched=True, batch_size=cell.batch_size, options=options)
    mine = [
        Search(
            cell=cell.number,
            victim=cell.number * tasks.victims + victim,
            distance=float(found.restarts.distance[victim, k]),
            success=succeeded(found.restarts.inputs[victim, k], images[victim]),
        )
        for victim in range(tasks.victims)
        for k in range(tasks.restarts)
    ]
    recipe = found.recipe
    line = {
        "network": cell.network,
        "initialisation": cell.initialisation,
        "phase": cell.phase,
        "accuracy": accuracy,
        "batch_size": cell.batch_size,
        "layers": layers_of(model),
        "operators": operators_of(model, shared, material.shape, cell.batch_size),
        "input_shape": list(material.shape),
        "recipe": recipe.name,
        "distance": [recipe.distance, recipe.bandwidth or 1.0],
        "searches": len(mine),
        "success": sum(search.success for search in mine) / len(mine),
        "largest distance of a success": max((s.distance for s in mine if s.success), default=None),
        "least distance of a failure": min((s.distance for s in mine if not s.success), default=None),
        "seconds": round(time.perf_counter() - began, 1),
    }
    return mine, line


def operators_of(
    model: nn.Module, shared: list[Tensor], shape: tuple[int, ...], batch_size: int
) -> list[str]:
    """Those that an attack on the network meets, without those that only give a tensor another shape."""
    attack = prepare(model, Targets(shared, batched=True), shape, batch_size=batch_size)
    return sorted(attack.setup.probe.operators - SHAPING)
