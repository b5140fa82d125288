"""What is measured: families of tasks, their cells, and each cell's network and victims."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from sapag_fast.clients.training import Descent, train_to
from sapag_fast.data import read_dataset, read_mnist
from sapag_fast.models import make_model

EPOCHS = 20
SIX = ("default", "uniform", "normal.1", "normal.5", "xavier", "kaiming")
PARTS = ("set on", "held out", "fresh")
"""Of the victims, in the order of their numbers."""


@dataclass(frozen=True)
class Tasks:
    """Families to be measured together: networks x initialisations x phases, some victims each."""

    name: str
    data: str
    networks: tuple[tuple[str, tuple[str, ...]], ...]
    batch_sizes: tuple[int, ...] = (1,)
    piecewise_linear: bool = False
    victims: int = 18
    restarts: int = 3


FAMILIES = (
    Tasks("mnist", "mnist", (("lenet", SIX), ("lenet4", ("default",)), ("mlp", ("default", "kaiming")))),
    Tasks("cifar", "cifar", (("lenet", SIX),), victims=10, restarts=2),
    Tasks("mnist-batch", "mnist", (("lenet", SIX),), batch_sizes=(2, 4), victims=5, restarts=2),
    Tasks(
        "cifar-relu",
        "cifar",
        (("convnet", ("default", "kaiming")),),
        piecewise_linear=True,
        victims=10,
        restarts=2,
    ),
)


@dataclass(frozen=True)
class Cell:
    """A network, its weights, and how many images are behind a gradient; `number` counts a family's cells."""

    number: int
    network: str
    initialisation: str
    phase: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.network} {self.initialisation} {self.phase} B={self.batch_size}"


def cells(tasks: Tasks) -> Iterator[Cell]:
    """All of them, in order."""
    kinds = (
        kind
        for network, initialisations in tasks.networks
        for kind in product((network,), initialisations, ("untrained", "trained"), tasks.batch_sizes)
    )
    return (Cell(number, *kind) for number, kind in enumerate(kinds))


def name_of(tasks: Tasks, layers: int) -> str:
    """A family's name: networks of different numbers of layers are families of their own."""
    return f"{tasks.name}, {layers} layers"


def layers_of(model: nn.Module) -> int:
    """Modules with parameters of their own."""
    return len({name.rpartition(".")[0] for name, _ in model.named_parameters()})


@dataclass(frozen=True)
class Material:
    """Images ``[N, C, H, W]`` and labels ``[N]``: of the victims of a part, and those to train on."""

    part: int
    images: Tensor
    labels: Tensor
    known: Tensor
    known_labels: Tensor

    @classmethod
    def read(cls, data: str, folder: Path, part: int) -> Material:
        """Of ``mnist`` or ``cifar``, below the folder; the part is a place in `PARTS`."""
        if data == "mnist":
            mine = read_mnist(folder / "mnist", first=(0, 1000, 4000)[part], count=1000, classes=10)
            return cls(part, *mine, *read_mnist(folder / "mnist", first=2000, count=2000, classes=10))
        images, labels = _by_class(folder, "train", 100)
        if part == PARTS.index("fresh"):
            theirs, names = _by_class(folder, "test", 50)
        else:
            mine = slice(25 * part, 25 * part + 25)
            theirs, names = images[:, mine], labels[:, mine]
        # Image by image through the classes, so that any few in a row are of different ones.
        turned = (theirs.transpose(0, 1).flatten(0, 1), names.T.flatten())
        return cls(part, *turned, images[:, 50:].flatten(0, 1), labels[:, 50:].flatten())

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self.images.shape[1:])

    def network(self, cell: Cell) -> tuple[nn.Module, float | None]:
        """The cell's network, with weights of its own in each part, and its accuracy where it was trained."""
        model = make_model(
            cell.network,
            initialisation=cell.initialisation,
            seed=1000 * self.part + cell.number,
            channels=self.shape[0],
            image_size=self.shape[1],
        )
        if cell.phase == "untrained":
            return model, None
        descent = Descent(seed=self.part)
        model, trained = train_to(model, self.known, self.known_labels, epochs=EPOCHS, descent=descent)
        return model, trained.accuracy

    def victims(self, tasks: Tasks, cell: Cell, count: int) -> tuple[Tensor, Tensor]:
        """``[V, B, C, H, W]`` and ``[V, B]``, others for each cell of a family as long as there are any."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.part))
        taken = count * sum(before.batch_size for before in cells(tasks) if before.number < cell.number)
        places = torch.arange(taken, taken + count * cell.batch_size) % len(order)
        rows = order[places].view(-1, cell.batch_size)
        return self.images[rows], self.labels[rows]


def _by_class(folder: Path, split: str, each: int) -> tuple[Tensor, Tensor]:
    """CIFAR-10's images ``[10, N, C, H, W]`` and labels ``[10, N]``, class by class."""
    images, labels = read_dataset(folder / "cifar10", kind="folders", split=split)
    return images.view(10, each, *images.shape[1:]), labels.view(10, each)
