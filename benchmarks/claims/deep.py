"""Residual networks, vision transformers and perceptrons with ReLU: what search and arithmetic recover."""

from __future__ import annotations

from pathlib import Path

from benchmarks.claims.cell import Cell
from benchmarks.claims.images import lenet_cell
from benchmarks.claims.victims import trained_epochs

__all__ = ["cells"]

FEW: dict[str, object] = {"victims": 8, "networks": 2, "restarts": 1}
"""An evaluation of a deep network takes ten times as long as a LeNet's."""


def cells(data: Path, quick: bool) -> list[Cell]:
    """Sigmoid ResNet-20 and a vision transformer on photographs; perceptrons with ReLU on digits."""
    if quick:
        return [_transformer(data, 0, "sapag-exact"), _perceptron(data, 0, 1, "sapag-exact")]
    residual = [
        _residual(data, initialisation, epochs, mode, method)
        for initialisation, epochs, mode in (
            ("default", 0, False),
            ("default", 0, True),
            ("default", trained_epochs("cifar", "resnet20"), True),
            ("uniform", 0, False),
            ("uniform", 0, True),
        )
        for method in ("sapag", "cosine")
    ]
    transformers = [
        _transformer(data, epochs, method)
        for epochs in (0, trained_epochs("cifar", "vit"))
        for method in ("sapag-exact", "sapag", "dlg")
    ]
    perceptrons = [
        _perceptron(data, epochs, batch_size, method)
        for epochs in (0, trained_epochs("mnist", "mlp"))
        for batch_size in (1, 8)
        for method in ("sapag-exact", "sapag")
    ]
    return residual + transformers + perceptrons


def _residual(data: Path, initialisation: str, epochs: int, training_mode: bool, method: str) -> Cell:
    """ResNet-20, the activations sigmoids, with global pooling."""
    return lenet_cell(
        data,
        "deep",
        "cifar",
        initialisation,
        epochs,
        method,
        network="resnet20",
        training_mode=training_mode,
        variant="train-mode" if training_mode else "",
        **FEW,
    )


def _transformer(data: Path, epochs: int, method: str) -> Cell:
    """Six layers of width 96, patches of 4, a class token."""
    few = FEW | ({} if method == "sapag-exact" else {"victims": 4})
    return lenet_cell(
        data, "deep", "cifar", "default", epochs, method, network="vit", activation="gelu", **few
    )


def _perceptron(data: Path, epochs: int, batch_size: int, method: str) -> Cell:
    return lenet_cell(
        data,
        "deep",
        "mnist",
        "default",
        epochs,
        method,
        network="mlp",
        activation="relu",
        batch_size=batch_size,
        variant=f"b{batch_size}",
        **FEW,
    )
