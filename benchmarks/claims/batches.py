"""Several images behind one gradient."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims.cell import Cell
from benchmarks.claims.images import lenet_cell

__all__ = ["cells"]

NETWORKS = (("mnist", "default"), ("cifar", "uniform"), ("cifar", "default"))
RIVALS = ("dlg", "layer-cosine", "cosine-plain")
"""Beside four images a gradient; beside eight they would take hours to fail."""


def cells(data: Path, quick: bool) -> list[Cell]:
    """Untrained LeNets with 4 and 8 images a gradient; 20 gradients, so 80 and 160 images, a cell."""
    if quick:
        few = {"victims": 4, "networks": 1, "restarts": 1, "pictured": True}
        return [
            lenet_cell(data, "batches", "mnist", "default", 0, "sapag", batch_size=4, variant="b4", **few)
        ]
    methods = {4: ("sapag", *RIVALS), 8: ("sapag",)}
    return [
        lenet_cell(
            data,
            "batches",
            dataset,
            initialisation,
            0,
            method,
            batch_size=size,
            variant=f"b{size}",
            restarts=4,
            pictured=method == "sapag",
        )
        for size in (4, 8)
        for dataset, initialisation in NETWORKS
        for method in methods[size]
    ]
