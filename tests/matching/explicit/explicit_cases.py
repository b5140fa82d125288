"""Small networks around each rule, their problems, and the eager loop that explicit mode is measured by."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import find_kind
from sapag_fast.distances.layering import model_layers
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

CLASSES = 4


class Attention(nn.Module):
    """One head with layers of its own, on ``[B, tokens, 6]``."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        y = self.norm(x)
        return x + (self.q(y) @ self.k(y).transpose(1, 2)).softmax(-1) @ self.v(y)


class Positions(nn.Module):
    """Adds an embedding of positions to ``[B, tokens, 6]``."""

    def __init__(self, tokens=5):
        super().__init__()
        self.table = nn.Embedding(tokens, 6)
        self.register_buffer("tokens", torch.arange(tokens))

    def forward(self, x):
        return x * (1 + self.table(self.tokens))


class Twice(nn.Module):
    """One layer called twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return torch.tanh(self.layer(torch.tanh(self.layer(x))))


def _image(*layers, features):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


def _norm2d(norm):
    return _image(nn.Conv2d(2, 4, 3, padding=1), norm, nn.Sigmoid(), features=144)


def _settled(norm):
    """Running statistics and an affine map that are not the identity."""
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.normal_(1, 0.3)
        norm.bias.normal_(0, 0.3)
    return norm.eval()


IMAGE, SIGNAL, ROW, TOKENS = (2, 6, 6), (2, 12), (8,), (5, 6)

MODELS = {
    "linear": (ROW, lambda: nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, CLASSES))),
    "linear-tokens": (TOKENS, lambda: nn.Sequential(Attention(), nn.Flatten(), nn.Linear(30, CLASSES))),
    "conv2d": (IMAGE, lambda: _image(nn.Conv2d(2, 5, 3, 2, 1), nn.Sigmoid(), features=45)),
    "conv2d-dilated": (
        IMAGE,
        lambda: _image(
            nn.Conv2d(2, 4, 3, 1, 2, 2), nn.Sigmoid(), nn.Conv2d(4, 4, 2, 2), nn.Tanh(), features=36
        ),
    ),
    "conv2d-groups": (
        IMAGE,
        lambda: _image(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.Tanh(), features=144),
    ),
    "conv2d-reflect": (
        IMAGE,
        lambda: _image(nn.Conv2d(2, 3, 3, padding="same", padding_mode="reflect"), nn.Tanh(), features=108),
    ),
    "conv1d": (SIGNAL, lambda: _image(nn.Conv1d(2, 4, 3, 2, 1), nn.Sigmoid(), features=24)),
    "batch-norm-eval": (IMAGE, lambda: _norm2d(_settled(nn.BatchNorm2d(4)))),
    "batch-norm-train": (IMAGE, lambda: _norm2d(nn.BatchNorm2d(4))),
    "group-norm": (IMAGE, lambda: _norm2d(nn.GroupNorm(2, 4))),
    "layer-norm": (
        ROW,
        lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, CLASSES)),
    ),
    "embedding": (TOKENS, lambda: nn.Sequential(Positions(), nn.Flatten(), nn.Linear(30, CLASSES))),
    "twice": (ROW, lambda: nn.Sequential(Twice(), nn.Linear(8, CLASSES))),
}
"""Input shape and constructor; every one ends in a linear layer."""


def make_model(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    shape, make = MODELS[name]
    return make(), shape


def gradients(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """One row for each of ``[V, B, ...]``; the model keeps its buffers."""
    model = copy.deepcopy(model)
    parameters = tuple(p for p in model.parameters() if p.requires_grad)
    rows = [
        torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
        for x, y in zip(inputs, labels, strict=True)
    ]
    return [torch.stack(row) for row in zip(*rows, strict=True)]


def make_problem(
    model: nn.Module,
    targets: list[Tensor],
    *,
    restarts: int,
    kind="sapag",
    loss_fn=F.cross_entropy,
    **options,
) -> Problem:
    layers = None if find_kind(kind, "kind").merged else model_layers(model, "modules")
    distance = GradientDistance(kind, layers=layers, **options)
    return Problem(VictimModel(model), loss_fn, distance, targets, restarts=restarts)


def eager_gradient(model: nn.Module, target: list[Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
    """dD/dx of the ``sapag`` distance of one recovery, written down plainly, all in the model's dtype."""
    model = copy.deepcopy(model)
    parameters = tuple(model.parameters())
    x = inputs.clone().requires_grad_()
    dummy = torch.autograd.grad(F.cross_entropy(model(x), labels), parameters, create_graph=True)
    layers = model_layers(model, "modules")
    whole = torch.cat([t.flatten() for t in target]).norm()
    total = 0.0
    for layer in dict.fromkeys(layers):
        mine, theirs = (
            torch.cat([t.flatten() for t, number in zip(side, layers, strict=True) if number == layer])
            for side in (dummy, target)
        )
        if theirs.norm() <= 1e-6 * whole:
            continue
        u = theirs / theirs.norm()
        gap = (mine / mine.norm() - u).square().mean()
        total = total - torch.expm1(-gap / (2 * u.var(unbiased=False)))
    return torch.autograd.grad(total, x)[0]
