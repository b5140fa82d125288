"""The networks that a step's speed is measured on, each with one victim and R starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.models import LeNet, ResNet, initialise
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

__all__ = ["NETWORKS", "Case", "make_case"]


class _EncoderLayer(nn.Module):
    """Self-attention with linear layers of its own, then a GELU network; normalisation first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        mixed = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """Two encoder layers and a classifier over the mean, on continuous embeddings ``[B, tokens, width]``."""

    def __init__(self, width: int = 128, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(_EncoderLayer(width, heads), _EncoderLayer(width, heads))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x).mean(1))


def _resnet18() -> nn.Module:
    return ResNet(widths=(64, 128, 256, 512), blocks=2, shortcut="projection").eval()


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 4096),
        nn.Sigmoid(),
        nn.Linear(4096, 4096),
        nn.Sigmoid(),
        nn.Linear(4096, 10),
    )


NETWORKS = {
    "LeNet": (lambda: initialise(LeNet(), "normal.1"), (1, 28, 28), 64),
    "ResNet-18, BatchNorm eval": (_resnet18, (3, 32, 32), 16),
    "MLP 784-4096-4096-10": (_mlp, (784,), 64),
    "transformer, 2 layers": (lambda: Encoder(), (16, 128), 32),
}
"""Constructor, input shape, recoveries."""


@dataclass(frozen=True)
class Case:
    """One victim's ``target`` and R starts ``[R, 1, *shape]``."""

    model: nn.Module
    target: tuple[Tensor, ...]
    inputs: Tensor
    label: Tensor

    def problem(self) -> Problem:
        """What matching needs."""
        return Problem(
            VictimModel(self.model),
            F.cross_entropy,
            GradientDistance(),
            [t[None] for t in self.target],
            restarts=self.inputs.shape[0],
        )

    @property
    def labels(self) -> Tensor:
        """``[R, 1]``."""
        return self.label.expand(self.inputs.shape[0], 1)


def make_case(name: str, recoveries: int | None = None) -> Case:
    """The named network and `recoveries` starts near its victim's input."""
    make, shape, usual = NETWORKS[name]
    torch.manual_seed(0)
    return case_of(make(), shape, usual if recoveries is None else recoveries)


def case_of(model: nn.Module, shape: tuple[int, ...], recoveries: int) -> Case:
    """A network and `recoveries` starts near its victim's input, from the global generator."""
    truth, label = torch.rand(1, *shape), torch.tensor([3])
    target = torch.autograd.grad(F.cross_entropy(model(truth), label), tuple(model.parameters()))
    starts = 0.5 + 0.1 * torch.randn(recoveries, 1, *shape)
    return Case(model, target, starts, label)
