"""Whose gradients the claims are measured on: images fixed by seed from reserved ranges, and networks trained
on other images.

Reserved: MNIST's test images 4000..7999, CIFAR-10's class folders ``test``. Recipes are tuned on others.
Networks are trained on MNIST's test images 2000..3999, and on the images from the 51st on of each class of
CIFAR-10's ``train``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

from benchmarks import BENCHMARKS
from sapag_fast.clients.training import Descent, Phase, train_to
from sapag_fast.data import class_names, read_class_folders, read_mnist
from sapag_fast.models import make_model

__all__ = [
    "SHAPES",
    "trained_epochs",
    "training_images",
    "victim_images",
    "victim_network",
]

SHAPES: dict[str, tuple[int, int, int]] = {"mnist": (1, 28, 28), "cifar": (3, 32, 32)}
"""Input shapes by data set."""

_RESERVED = range(4000, 8000)
_TRAINING = range(2000, 4000)
_KEPT_PER_CLASS = 50
_CACHE = BENCHMARKS.parent / "build" / "claims-networks"


def trained_epochs(dataset: str, network: str) -> int:
    """Epochs of Adam behind the phase "trained".

    LeNets on 500 photographs need more than the others: after 20 epochs those with torch's own
    initialisation have learnt nothing yet, after 100 they begin to know the images by heart. Deeper networks
    on photographs know them by heart after 20.
    """
    if dataset == "cifar":
        return 50 if network == "lenet" else 10
    return 20


@lru_cache(maxsize=4)
def _reserved(data: Path, dataset: str) -> tuple[Tensor, Tensor]:
    if dataset == "mnist":
        return read_mnist(data / "mnist", first=_RESERVED.start, count=len(_RESERVED), classes=10)
    return read_class_folders(data / "cifar10", split="test", input_shape=SHAPES["cifar"], classes=10)


def victim_images(
    data: Path, dataset: str, victims: int, batch_size: int = 1, *, distinct: bool = False
) -> tuple[Tensor, Tensor, list[int]]:
    """Images ``[N, C, H, W]``, labels ``[N]`` and their places in the data set, N = `victims` x `batch_size`,
    victim by victim.

    The order is drawn once: fewer victims are the first of more. With `distinct` an image whose label its
    victim has already waits for the next one.
    """
    images, labels = _reserved(data, dataset)
    order = random.Random(f"claims/{dataset}").sample(range(len(images)), len(images))
    if distinct:
        order = _distinct(order, labels.tolist(), batch_size)
    order = order[: victims * batch_size]
    first = _RESERVED.start if dataset == "mnist" else 0
    return images[order], labels[order], [first + place for place in order]


def _distinct(order: Sequence[int], labels: Sequence[int], batch_size: int) -> list[int]:
    """The same order, image by image to the first batch that has room and lacks its label; whole ones."""
    open_batches: list[list[int]] = []
    whole: list[int] = []
    for place in order:
        fitting = (b for b in open_batches if all(labels[other] != labels[place] for other in b))
        batch = next(fitting, None)
        if batch is None:
            open_batches.append(batch := [])
        batch.append(place)
        if len(batch) == batch_size:
            open_batches.remove(batch)
            whole += batch
    return whole


@lru_cache(maxsize=4)
def training_images(data: Path, dataset: str) -> tuple[Tensor, Tensor]:
    """Images and labels that the networks are trained on; none of them is a victim."""
    if dataset == "mnist":
        return read_mnist(data / "mnist", first=_TRAINING.start, count=len(_TRAINING), classes=10)
    root = data / "cifar10" / "train"
    images, labels = read_class_folders(root, input_shape=SHAPES["cifar"], classes=10)
    kept = [
        place
        for label in range(len(class_names(root)))
        for place in (labels == label).nonzero().flatten().tolist()[_KEPT_PER_CLASS:]
    ]
    return images[kept], labels[kept]


def victim_network(
    data: Path, dataset: str, network: str, activation: str, initialisation: str, seed: int, epochs: int
) -> tuple[nn.Module, Phase | None]:
    """A network in evaluation mode with weights of its own for each seed, and how far it was trained.

    None where ``epochs`` is 0.
    """
    channels, size = SHAPES[dataset][:2]
    model = make_model(
        network,
        activation=activation,
        initialisation=initialisation,
        seed=seed,
        channels=channels,
        image_size=size,
        classes=10,
    ).eval()
    if epochs == 0:
        return model, None
    images, labels = training_images(data, dataset)
    return train_to(model, images, labels, epochs=epochs, descent=Descent(seed=seed), cache=_CACHE)
