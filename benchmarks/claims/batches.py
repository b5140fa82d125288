"""Several images behind one gradient."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims.cell import Cell
from benchmarks.claims.images import lenet_cell

__all__ = ["cells"]

NETWORKS = (("mnist", "default"), ("cifar", "uniform"), ("cifar", "default"))
RESTARTS = {4: 2, 8: 1}
"""By images a gradient. A grey and a blurred start come to the same images; eight take twice as long."""

SEPARATED = ("mnist", "default"), ("cifar", "default")
"""Networks on which images of one label come out averaged: batches of four are searched once more. In those
of eight float32's errors hide what the starts of that need.
"""

RIVALS = ("dlg", "layer-cosine", "cosine-plain")
"""Beside four images a gradient; beside eight they would take hours to fail."""


def cells(data: Path, quick: bool) -> list[Cell]:
    """Untrained LeNets with 4 and 8 images a gradient; 20 gradients, so 80 and 160 images, a cell. Labels are
    distinct in each batch, or fall as they may: images of one label are much harder to tell apart.
    """
    if quick:
        few = {"victims": 4, "networks": 1, "restarts": 1, "pictured": True}
        return [
            lenet_cell(data, "batches", "mnist", "default", 0, "sapag", batch_size=4, variant="b4", **few)
        ]
    return [
        lenet_cell(
            data,
            "batches",
            dataset,
            initialisation,
            0,
            method,
            batch_size=size,
            distinct=distinct,
            variant=f"b{size}" + ".distinct" * distinct,
            restarts=1 if method == "sapag-separated" else RESTARTS[size],
            pictured=method.startswith("sapag"),
        )
        for size, distinct, methods in (
            (4, True, ("sapag",)),
            (8, True, ("sapag",)),
            (4, False, ("sapag", "sapag-separated", *RIVALS)),
            (8, False, ("sapag",)),
        )
        for dataset, initialisation in NETWORKS
        for method in methods
        if method != "sapag-separated" or (dataset, initialisation) in SEPARATED
    ]
