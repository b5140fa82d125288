"""Distance and PSNR on the way: one restart a victim, with the truth looked at after every evaluation."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims.cell import Cell
from benchmarks.claims.images import lenet_cell
from benchmarks.claims.methods import DISTANCES
from benchmarks.claims.victims import trained_epochs

__all__ = ["cells"]

NETWORKS = (("mnist", "default"), ("cifar", "normal.1"))


def cells(data: Path, quick: bool) -> list[Cell]:
    """All methods, untrained and trained; one network, so that all victims run side by side."""
    few = {"networks": 1, "restarts": 1, "traced": True}
    if quick:
        methods = ("sapag", "l2-normalized", "cosine", "dlg")
        return [
            lenet_cell(data, "curves", "mnist", "default", 0, method, victims=8, **few) for method in methods
        ]
    return [
        lenet_cell(data, "curves", dataset, initialisation, epochs, method, **few)
        for dataset, initialisation in NETWORKS
        for epochs in (0, trained_epochs(dataset, "lenet"))
        for method in ("sapag", *DISTANCES, "cosine-plain", "dlg")
    ]
