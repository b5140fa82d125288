"""What is attacked: one network, the gradients of some images, and a start for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.shared.victims import shared_gradients
from sapag_fast.data import read_dataset
from sapag_fast.models import make_model
from sapag_fast.search.starts import recovery_generator

__all__ = ["Case", "Normalised", "Victims", "attacked", "load"]

_SEED = 20261123
_MOMENTS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    1: ((0.1307,), (0.3081,)),
    3: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""Mean and deviation of MNIST's and CIFAR-10's training images, by number of channels: the constants that
everybody normalises with.
"""


@dataclass(frozen=True)
class Case:
    """A data set's folder, its split, the channels of its images, and the initialisation of a sigmoid LeNet.

    ``longest``: budgets beyond it are not tried.
    """

    name: str
    folder: str
    split: str
    channels: int
    initialisation: str
    longest: int


class Normalised(nn.Module):
    """`model` on normalised images z, of pixels ``mean + deviation z``: the coordinates in which Inverting
    Gradients and breaching search. Parameters and buffers are `model`'s.
    """

    def __init__(self, model: nn.Module, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.model = model
        self.mean, self.deviation = mean, deviation

    def forward(self, normalised: Tensor) -> Tensor:
        return self.model(self.pixels(normalised))

    def pixels(self, normalised: Tensor) -> Tensor:
        return self.mean + self.deviation * normalised


@dataclass(frozen=True)
class Victims:
    """``images [V, C, H, W]`` in [0, 1] and ``labels [V]`` are the truth; ``target`` the gradients
    ``[V, *parameter shape]``; ``starts [V, 1, C, H, W]`` and ``label_starts [V, 1, classes]`` standard normal
    numbers. DLG takes them as pixels, Inverting Gradients and breaching as normalised pixels, as published.
    ``mean`` and ``deviation`` ``[C, 1, 1]`` are those of the data set.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    target: list[Tensor]
    starts: Tensor
    label_starts: Tensor
    mean: Tensor
    deviation: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self.images.shape[1:])

    def gradient(self, victim: int) -> list[Tensor]:
        """One victim's, without the leading dimension."""
        return [entry[victim] for entry in self.target]

    def normalised(self) -> Normalised:
        """The network on normalised images."""
        return Normalised(self.model, self.mean, self.deviation)


def attacked(model: nn.Module, images: Tensor, labels: Tensor) -> Victims:
    """Victims with one image ``[C, H, W]`` each, and the starts that belong to them by number."""
    draws = [recovery_generator(_SEED, victim, 0) for victim in range(len(images))]
    mean, deviation = (torch.tensor(entry).view(-1, 1, 1) for entry in _MOMENTS[images.shape[1]])
    return Victims(
        model=model,
        images=images,
        labels=labels,
        target=shared_gradients(model, images[:, None], labels[:, None]),
        starts=torch.stack([torch.randn(1, *images.shape[1:], generator=draw) for draw in draws]),
        label_starts=torch.stack([torch.randn(1, 10, generator=draw) for draw in draws]),
        mean=mean,
        deviation=deviation,
    )


@lru_cache(maxsize=8)
def load(data: Path, case: Case, count: int) -> Victims:
    """`count` victims of a case, drawn with a fixed seed from all images of its split; fewer victims are the
    first of more.

    Raises
    ------
    ValueError
        Where the split holds fewer images.
    """
    images, labels = read_dataset(data / case.folder, split=case.split)
    # MNIST's first 4000 images served to set the recipes.
    free = torch.arange(4000 if case.folder == "mnist" else 0, len(images))
    if len(free) < count:
        raise ValueError(
            f"{data / case.folder}: expected {count} images or more in {case.split}, found {len(free)}"
        )
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(_SEED))
    chosen = free[order[:count]]
    images, labels = images[chosen], labels[chosen]
    model = make_model(
        "lenet",
        activation="sigmoid",
        initialisation=case.initialisation,
        seed=_SEED,
        channels=images.shape[1],
        image_size=images.shape[2],
    )
    return attacked(model, images, labels)
