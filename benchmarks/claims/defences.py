"""What defences leave: the same attack on gradients that their owners have changed."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims.cell import Cell
from benchmarks.claims.images import lenet_cell

__all__ = ["STRENGTHS", "cells"]

STRENGTHS: tuple[tuple[str, ...], ...] = (
    (),
    ("relative-noise:0.001",),
    ("relative-noise:0.01",),
    ("relative-noise:0.1",),
    ("relative-noise:1",),
    ("clip:1",),
    ("clip:0.1",),
    ("clip:1", "noise:0.001"),
    ("clip:1", "noise:0.01"),
    ("prune:0.5",),
    ("prune:0.9",),
    ("prune:0.99",),
    ("quantise:8",),
    ("quantise:4",),
    ("sign",),
    ("withhold:0,1",),
    ("withhold:-2,-1",),
)
"""Noise is relative to the gradient's root mean square, except after clipping (DP-SGD's order); withheld are
the first convolution and the last linear layer (its labels are then given).
"""

COMPARED = (("relative-noise:0.1",), ("prune:0.9",), ("sign",))
RIVALS = ("layer-cosine", "cosine-plain", "dlg")


def cells(data: Path, quick: bool) -> list[Cell]:
    """SAPAG on LeNets with torch's own initialisation, whose first layers have by far the smallest gradients,
    and with uniform weights, where all layers' are alike; and rivals for three.
    """
    if quick:
        few = {"victims": 8, "networks": 1, "restarts": 1}
        return [_cell(data, defence, 0, "sapag", **few) for defence in (("relative-noise:0.1",), ("sign",))]
    plain = [
        _cell(data, defence, epochs, "sapag", initialisation)
        for initialisation, epochs in (("uniform", 0), ("default", 0), ("default", 20))
        for defence in STRENGTHS
    ]
    compared = [
        _cell(data, defence, 0, rival, initialisation)
        for initialisation in ("uniform", "default")
        for defence in COMPARED
        for rival in RIVALS
    ]
    return plain + compared


def _cell(
    data: Path,
    defence: tuple[str, ...],
    epochs: int,
    method: str,
    initialisation: str = "default",
    **options: object,
) -> Cell:
    variant = "+".join(text.replace(":", "").replace(",", "_") for text in defence) or "none"
    chosen = {"restarts": 4, "pictured": method == "sapag" and not epochs} | options
    return lenet_cell(
        data, "defences", "mnist", initialisation, epochs, method, defence=defence, variant=variant, **chosen
    )
