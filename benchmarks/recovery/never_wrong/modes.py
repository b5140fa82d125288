"""Modes: networks that draw random numbers, that take the batch's own statistics, and averaged batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recovery.never_wrong.case import Case, Outcome, Victims, judged_warning
from benchmarks.recovery.never_wrong.networks import Between, lenet
from benchmarks.shared.victims import shared_gradients
from sapag_fast.models import make_model
from sapag_fast.recovery.recover import recover
from sapag_fast.victim.cautions import (
    AVERAGED_BATCHES,
    BATCHNORM_TRAINING,
    DROPOUT_ACTIVE,
    RANDOMNESS,
)

__all__ = ["CASES"]

SHAPE = (1, 28, 28)
COUNT = 1
STEPS, TO_THE_END = 60, 300
"""Evaluations where a warning is due, and where nothing speaks against the recovery."""
NONE = "none"


def _perceptron(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Sigmoid(), *between, nn.Linear(64, 10))


def _after_convolution(module: nn.Module) -> nn.Module:
    body = list(lenet())
    return nn.Sequential(*body[:2], module, *body[2:])


class _Attending(nn.Module):
    """Rows of the picture attend to each other."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(28, 32), nn.Parameter(torch.randn(28, 32))
        self.attention = nn.MultiheadAttention(32, 2, dropout=dropout, batch_first=True)
        self.fc = nn.Linear(32 * 28, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embed(x[:, 0]) + self.place
        return self.fc((rows + self.attention(rows, rows, rows)[0]).sigmoid().flatten(1))


class _Recurrent(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.rnn, self.fc = nn.GRU(28, 32, 2, dropout=dropout, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x[:, 0])[0][:, -1])


def _whole(build: Callable[[], nn.Module], *, training: bool = True) -> Callable[[], nn.Module]:
    return lambda: build().train(training)


def _half_frozen() -> nn.Module:
    """In training mode but for its dropout."""
    model = _perceptron(nn.Dropout(0.5))
    model[3].eval()
    return model


def _dropped(x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, training=True)


NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "dropout": (DROPOUT_ACTIVE, lambda: _perceptron(nn.Dropout(0.5))),
    "dropout of a tenth": (DROPOUT_ACTIVE, lambda: _perceptron(nn.Dropout(0.1))),
    "dropout in evaluation mode": (NONE, _whole(lambda: _perceptron(nn.Dropout(0.5)), training=False)),
    "dropout of nothing": (NONE, lambda: _perceptron(nn.Dropout(0.0))),
    "dropout switched off alone": (NONE, _half_frozen),
    "dropout of filters": (DROPOUT_ACTIVE, lambda: _after_convolution(nn.Dropout2d(0.3))),
    "alpha dropout": (DROPOUT_ACTIVE, lambda: _perceptron(nn.AlphaDropout(0.3))),
    "dropout as a function": (RANDOMNESS, lambda: _perceptron(Between(_dropped))),
    "dropout as a function, evaluation mode": (
        RANDOMNESS, _whole(lambda: _perceptron(Between(_dropped)), training=False),
    ),
    "dropout in attention": (DROPOUT_ACTIVE, lambda: _Attending(0.3)),
    "attention without dropout": (NONE, lambda: _Attending(0.0)),
    "dropout in a GRU": (DROPOUT_ACTIVE, lambda: _Recurrent(0.5)),
    "random slopes": (RANDOMNESS, lambda: _perceptron(nn.Linear(64, 64), nn.RReLU())),
    "noise on features": (RANDOMNESS, lambda: _perceptron(Between(lambda x: x + 0.3 * torch.randn_like(x)))),
    "noise on the picture": (RANDOMNESS, lambda: lenet(Between(lambda x: x + 0.3 * torch.randn_like(x)))),
    "BatchNorm in training mode": (BATCHNORM_TRAINING, lambda: _after_convolution(nn.BatchNorm2d(12))),
    "BatchNorm of the picture in training mode": (BATCHNORM_TRAINING, lambda: lenet(nn.BatchNorm2d(1))),
    "BatchNorm in evaluation mode": (
        NONE, _whole(lambda: _after_convolution(nn.BatchNorm2d(12)), training=False),
    ),
    "BatchNorm without running statistics": (
        BATCHNORM_TRAINING,
        _whole(
            lambda: _after_convolution(nn.BatchNorm2d(12, track_running_stats=False)), training=False
        ),
    ),
    "GroupNorm": (NONE, lambda: _after_convolution(nn.GroupNorm(3, 12))),
}  # fmt: skip
"""What warning belongs to it, and how to build it."""


def _network(name: str, expected: str, build: Callable[[], nn.Module]) -> Case:
    def run(victims: Victims) -> list[Outcome]:
        images, labels = victims.digits(name, COUNT)
        model = build()
        target = shared_gradients(model, images[:, None], labels[:, None])
        steps = TO_THE_END if expected == NONE else STEPS
        found = recover(model, target, SHAPE, batched=True, steps=steps, labels=labels[:, None], exact="off")
        return judged_warning(found, images[:, None], expected)

    return Case("modes", name, run)


def _averaged(name: str, build: Callable[[], nn.Module], expected: str, *, batches: int) -> Case:
    """Mini-batches of two digits, whose gradients are averaged as the tool is told."""

    def run(victims: Victims) -> list[Outcome]:
        images, labels = victims.digits(name, 2 * batches)
        model = build()
        rows = shared_gradients(model, images.view(batches, 2, *SHAPE), labels.view(batches, 2))
        options: dict[str, Any] = {"batch_size": 2 * batches, "averaged_batches": batches, "steps": STEPS}
        found = recover(model, [row.mean(0) for row in rows], SHAPE, labels=labels, **options)
        return judged_warning(found, images[None], expected)

    return Case("modes", name, run)


CASES: list[Case] = [
    *(_network(name, *entry) for name, entry in NETWORKS.items()),
    _averaged(
        "two batches averaged", lambda: make_model("lenet", image_size=28), AVERAGED_BATCHES, batches=2
    ),
    _averaged(
        "two batches averaged, BatchNorm in training mode",
        lambda: _after_convolution(nn.BatchNorm2d(12)), BATCHNORM_TRAINING, batches=2,
    ),
]  # fmt: skip
