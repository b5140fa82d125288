"""Bounds and normalisation: what clients do to their pictures, and what the attacker is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.recovery.never_wrong.case import Case, Outcome, Victims, judged_warning
from benchmarks.shared.victims import shared_gradients
from sapag_fast import data
from sapag_fast.models import make_model
from sapag_fast.recovery.recover import recover

__all__ = ["CASES"]

COUNT = 1
STEPS = 200
MNIST, HALF, CIFAR = (0.1307, 0.3081), (0.5, 0.5), (0.4734, 0.2516)
BYTES, STRONG = (0.0, 1 / 255), (0.5, 0.1)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Statistics = tuple[Any, Any]


def _told(statistics: Statistics) -> dict[str, Any]:
    return dict(zip(("mean", "std"), statistics, strict=True))


def _column(value: float | Sequence[float]) -> Tensor:
    return torch.as_tensor(value).reshape(-1, 1, 1)


def _fed(statistics: Statistics) -> dict[str, Any]:
    """Bounds of what the network is fed."""
    mean, std = (_column(value).double() for value in statistics)
    low, high = (tuple(((end - mean) / std).flatten().tolist()) for end in (0.0, 1.0))
    return {"bounds": (low, high)}


def _case(
    name: str,
    statistics: Statistics,
    *,
    colour: bool = False,
    network: Callable[[], nn.Module] | None = None,
    **told: Any,
) -> Case:
    """Pictures that the client normalises; right is a picture that is its own once the network's input is."""

    def run(victims: Victims) -> list[Outcome]:
        if colour:
            images, labels = (part[-COUNT:] for part in data.photographs(40, 16))
        else:
            images, labels = victims.digits(name, COUNT)
        shape = tuple(images.shape[1:])
        mean, std = (_column(value) for value in statistics)
        model = network() if network else make_model("lenet", channels=shape[0], image_size=shape[-1], seed=8)
        target = shared_gradients(model, ((images - mean) / std)[:, None], labels[:, None])
        found = recover(model, target, shape, batched=True, **({"steps": STEPS} | told))
        if "mean" in told:  # the pictures, by the statistics that were told
            fed = (found.inputs - _column(told["mean"])) / _column(told["std"])
        else:
            fed = found.inputs
        return judged_warning(replace(found, inputs=fed * std + mean), images[:, None], "box")

    return Case("bounds", name, run)


def _relu() -> nn.Module:
    return make_model("lenet", image_size=28, activation=nn.ReLU, seed=8)


CASES: list[Case] = [
    _case("pixels as they are", (0.0, 1.0)),
    _case("MNIST's statistics, not told", MNIST),
    _case("MNIST's statistics, told", MNIST, **_told(MNIST)),
    _case("MNIST's statistics, told as bounds", MNIST, **_fed(MNIST)),
    _case("MNIST's statistics, CIFAR's told", MNIST, **_told(CIFAR)),
    _case("MNIST's statistics, a half told", MNIST, **_told(HALF)),
    _case("MNIST's statistics, no bounds", MNIST, bounds=None),
    _case("MNIST's statistics, MLP, not told", MNIST, network=lambda: make_model("mlp", image_size=28)),
    _case("MNIST's statistics, ReLU, not told", MNIST, network=_relu),
    _case("MNIST's statistics, Adam with clipping, not told", MNIST, recipe="relu-adam"),
    _case("-1 to 1, not told", HALF),
    _case("-1 to 1, told", HALF, **_told(HALF)),
    _case("-1 to 1, told as bounds", HALF, bounds=(-1, 1)),
    _case("a deviation of 0.1, not told", STRONG),
    _case("a deviation of 0.1, told", STRONG, **_told(STRONG)),
    _case("bytes, not told", BYTES),
    _case("bytes, told as bounds", BYTES, bounds=(0, 255)),
    _case("pixels as they are, MNIST's told", (0.0, 1.0), **_told(MNIST)),
    _case("pixels as they are, bounds too narrow", (0.0, 1.0), bounds=(0.3, 0.7)),
    _case("pixels as they are, bounds too wide", (0.0, 1.0), bounds=(-20, 20)),
    _case("inverted", (1.0, -1.0)),
    _case("photographs, ImageNet's statistics, not told", IMAGENET, colour=True),
    _case("photographs, ImageNet's statistics, told", IMAGENET, colour=True, **_told(IMAGENET)),
    _case("photographs, ImageNet's statistics, told as bounds", IMAGENET, colour=True, **_fed(IMAGENET)),
    _case("photographs, -1 to 1, not told", HALF, colour=True),
]
