"""Sigmoid LeNet on digits and photographs: every initialisation, untrained and trained, every rival."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.claims.cell import Cell
from benchmarks.claims.methods import DISTANCES, make_method
from benchmarks.claims.plan import Plan, image_cell
from benchmarks.claims.victims import SHAPES, trained_epochs

__all__ = ["INITIALISATIONS", "cells", "lenet_cell"]

INITIALISATIONS = ("default", "kaiming", "xavier", "normal.1", "normal.5", "uniform")

RESTARTS = {"untrained": 4, "trained": 8}
"""Of SAPAG; trained networks from Xavier's initialisation, the hardest here, get 16."""

COMPARED_RESTARTS = 2
"""Of every rival; SAPAG's first ones stand beside them."""

PICTURED = (("mnist", "default"), ("cifar", "normal.5"))
"""Initialisations whose trained networks' recoveries are shown."""

EXTRA = ("l2-plain", "dlg-own")
"""On `PICTURED` initialisations alone: a second rival without priors, DLG with ten times our budget."""


def lenet_cell(
    data: Path,
    group: str,
    dataset: str,
    initialisation: str,
    epochs: int,
    method: str,
    *,
    restarts: int | None = None,
    batch_size: int = 1,
    variant: str = "",
    activation: str = "sigmoid",
    network: str = "lenet",
    steps: int | None = None,
    **options: object,
) -> Cell:
    """A cell on a LeNet (or another `network`); `options` are a `Plan`'s further fields."""
    if restarts is None:
        restarts = RESTARTS["trained" if epochs else "untrained"]
        restarts = 16 if epochs and initialisation == "xavier" else restarts
    chosen = make_method(
        method,
        SHAPES[dataset],
        batch_size,
        restarts,
        piecewise_linear=activation == "relu",
        trained=epochs > 0,
        steps=steps,
    )
    # Curves are of all victims at every evaluation: none of their searches ends before.
    recipe = replace(chosen.recipe, patience=0) if options.get("traced") else chosen.recipe
    plan = Plan(
        dataset,
        network,
        activation,
        initialisation,
        epochs,
        method,
        recipe,
        chosen.labels,
        chosen.restarts,
        batch_size=batch_size,
        **options,
    )
    return image_cell(data, group, plan, variant)


def cells(data: Path, quick: bool) -> list[Cell]:
    """Data set x initialisation x phase x method."""
    if quick:
        wanted = (("mnist", "default", 0), ("mnist", "normal.5", 1), ("cifar", "kaiming", 0))
        return [
            lenet_cell(
                data,
                "images",
                dataset,
                initialisation,
                trained_epochs(dataset, "lenet") * phase,
                method,
                victims=8,
                networks=1,
                restarts=2,
                pictured=True,
            )
            for dataset, initialisation, phase in wanted
            for method in ("sapag", "cosine", "cosine-plain", "dlg")
        ]
    made = []
    for dataset in SHAPES:
        methods = ["sapag", "dlg", *DISTANCES, "cosine-plain", *EXTRA]
        if dataset == "cifar":
            methods.insert(1, "sapag-pixel")
        made += [
            lenet_cell(
                data,
                "images",
                dataset,
                initialisation,
                epochs,
                method,
                restarts=None if method == "sapag" else COMPARED_RESTARTS,
                pictured=bool(epochs) and (dataset, initialisation) in PICTURED,
            )
            for method in methods
            for epochs in (0, trained_epochs(dataset, "lenet"))
            for initialisation in INITIALISATIONS
            if method not in EXTRA or (dataset, initialisation) in PICTURED
        ]
    return made
