"""Success by training phase: the same victims on networks after so many epochs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims.cell import Cell
from benchmarks.claims.images import COMPARED_RESTARTS, lenet_cell

__all__ = ["EPOCHS", "cells"]

EPOCHS = {"mnist": (0, 1, 2, 5, 10, 20), "cifar": (0, 5, 10, 20, 50, 100)}
"""A hundred epochs over 500 photographs are as many steps as 25 over 2000 digits."""

NETWORKS = (("mnist", "default"), ("mnist", "normal.5"), ("cifar", "default"), ("cifar", "normal.1"))
METHODS = ("sapag", "dlg", "layer-cosine", "cosine-plain")


def cells(data: Path, quick: bool) -> list[Cell]:
    """Network x epochs x method, with the rivals' number of restarts throughout."""
    if quick:
        return [
            lenet_cell(data, "phases", "mnist", "default", epochs, "sapag", victims=8, networks=1, restarts=2)
            for epochs in (1, 5)
        ]
    return [
        lenet_cell(data, "phases", dataset, initialisation, epochs, method, restarts=COMPARED_RESTARTS)
        for dataset, initialisation in NETWORKS
        for epochs in EPOCHS[dataset]
        for method in METHODS
    ]
