"""Networks with ReLU, and networks other than LeNet."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims.cell import Cell
from benchmarks.claims.images import lenet_cell
from benchmarks.claims.victims import trained_epochs

__all__ = ["cells"]

METHODS = ("sapag", "inverting", "inverting-tuned", "relu-adam")
"""The recipe through the surrogate; Inverting Gradients' (as published with as many restarts; tuned, with all
evaluations in one search) and ours on the bare network, at as many evaluations.
"""

RESIDUAL_METHODS = ("sapag", "inverting-tuned")
"""On residual networks, where an evaluation takes ten times as long: ours and the stronger rival."""


def cells(data: Path, quick: bool) -> list[Cell]:
    """ConvNet and ResNet-20 on photographs (group relu); MLP and LeNets on digits (group networks)."""
    if quick:
        few = {"victims": 4, "networks": 1, "restarts": 1, "pictured": True}
        return [_cell(data, "relu", "cifar", "convnet", "relu", 0, m, **few) for m in ("sapag", "inverting")]
    photographs = [
        _cell(data, "relu", "cifar", network, "relu", epochs, method, restarts=restarts, **mode)
        for network, methods, restarts, mode in (
            ("convnet", METHODS, 4, {}),
            ("resnet20", RESIDUAL_METHODS, 1, {"victims": 8, "networks": 2}),
            ("resnet20", RESIDUAL_METHODS, 1, {"victims": 8, "networks": 2, "training_mode": True}),
        )
        for method in methods
        for epochs in (0, trained_epochs("cifar", network))
    ]
    rivals = {"sigmoid": ("sapag", "dlg", "cosine-plain"), "relu": METHODS}
    digits = [
        _cell(data, "networks", "mnist", network, activation, epochs, method, restarts=4)
        for network, activation in (("mlp", "sigmoid"), ("lenet4", "sigmoid"), ("lenet", "relu"))
        for method in rivals[activation]
        for epochs in (0, trained_epochs("mnist", network))
    ]
    return photographs + digits


def _cell(
    data: Path,
    group: str,
    dataset: str,
    network: str,
    activation: str,
    epochs: int,
    method: str,
    *,
    training_mode: bool = False,
    **options: object,
) -> Cell:
    options = {"pictured": group == "relu"} | options
    return lenet_cell(
        data,
        group,
        dataset,
        "default",
        epochs,
        method,
        network=network,
        activation=activation,
        training_mode=training_mode,
        variant="train-mode" if training_mode else "",
        **options,
    )
