"""Victim networks trained to a phase: so many epochs, or up to an accuracy.

Every number comes from the seed: the same call gives the same bits on the same machine and number of threads
(on a GPU as far as its kernels do).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast import checks as check
from sapag_fast.clients.training_cache import (
    cache_folder,
    read_trained,
    training_fingerprint,
    write_trained,
)
from sapag_fast.runtime.extras import needs
from sapag_fast.runtime.randomness import seeded

__all__ = ["MOST_EPOCHS", "OPTIMIZERS", "Descent", "Phase", "train_to"]

MOST_EPOCHS = 300
"""Where an accuracy is asked for without a number of epochs, training gives up here."""

OPTIMIZERS: dict[str, tuple[float, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (0.01, lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9)),
    "adam": (0.001, lambda parameters, lr: torch.optim.Adam(parameters, lr)),
}
"""Default learning rate and constructor by name; SGD has momentum 0.9."""


@dataclass(frozen=True)
class Descent:
    """How a network is trained.

    Attributes
    ----------
    optimizer : {"adam", "sgd"}
    lr : float
        None: 0.001 for Adam, 0.01 for SGD.
    batch_size : int
        Images a step; the last step of an epoch takes those that are left.
    seed : int
        Of the order of the images, drawn anew each epoch, and of dropout.

    Raises
    ------
    ValueError
        For values that do not fit.
    """

    optimizer: str = "adam"
    lr: float | None = None
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        default, _ = OPTIMIZERS[check.check_choice("optimizer", self.optimizer, OPTIMIZERS)]
        object.__setattr__(self, "lr", default if self.lr is None else check.check_positive("lr", self.lr))
        object.__setattr__(self, "batch_size", check.check_count("batch_size", self.batch_size))
        object.__setattr__(self, "seed", check.check_seed(self.seed))


@dataclass(frozen=True)
class Phase:
    """How far a network was trained.

    Attributes
    ----------
    epochs : int
        Passes over the data.
    steps : int
        Updates of the weights.
    accuracy : float
        Of the final network on its training data, in evaluation mode, in 0..1.
    loss : float
        Mean cross-entropy there.
    reached : bool or None
        Whether the accuracy that was asked for was reached, None where none was.
    """

    epochs: int
    steps: int
    accuracy: float
    loss: float
    reached: bool | None = None


def train_to(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int | None = None,
    accuracy: float | None = None,
    descent: Descent | None = None,
    cache: str | Path | None = None,
    progress: bool = False,
) -> tuple[nn.Module, Phase]:
    """Train a copy of `model` on cross-entropy, and say how far it came.

    Parameters
    ----------
    model : nn.Module
        Left as it is. Its parameters with ``requires_grad=False`` are not trained.
    images : Tensor
        ``[N, *input_shape]``, or token ids ``[N, T]``: what the model takes.
    labels : Tensor
        ``[N]``, integers.
    epochs : int, optional
        Passes over the data; with `accuracy` the most there may be. 0: the model as it came.
    accuracy : float, optional
        In 0..1: stop after the first epoch that reaches it on the training data. Without `epochs`, training
        gives up after `MOST_EPOCHS`; see `Phase.reached`.
    descent : Descent, optional
        Optimiser, learning rate, batch size and seed; ``Descent()`` if None.
    cache : str or Path, optional
        A folder, made if need be. What was trained is kept there in a safetensors file named after model,
        data and settings, and the same call takes it from there. A damaged file is reported and replaced.
    progress : bool
        Show a bar.

    Returns
    -------
    model : nn.Module
        The trained copy, with the modes (training or evaluation) that `model` has.
    phase : Phase

    Raises
    ------
    ValueError
        For arguments that do not fit, when the loss does not stay finite, and with `cache` for an activation
        that is a lambda or a function inside another.
    """
    check.check_model(model, None)
    _check(images, labels, epochs, accuracy)
    progress = check.check_flag("progress", progress)
    if descent is not None and not isinstance(descent, Descent):
        raise TypeError(f"descent must be a Descent, found {type(descent).__name__}")
    descent = descent or Descent()
    goal = _Goal(MOST_EPOCHS if epochs is None else epochs, accuracy)
    trained = copy.deepcopy(model)
    path = name = None
    if cache is not None:
        name = training_fingerprint(model, images, labels, {**asdict(goal), **asdict(descent)})
        path = cache_folder(check.check_path("cache", cache)) / f"{name}.safetensors"
        if (kept := read_trained(trained, path, name)) is not None:
            return trained, Phase(**kept)
    device = next((tensor.device for tensor in trained.parameters()), images.device)
    modes = [(module, module.training) for module in trained.modules()]
    with seeded(descent.seed, device), torch.enable_grad(), _bar(progress, goal.epochs) as show:
        phase = _train(trained, images.to(device), labels.to(device), goal, descent, show)
    for module, mode in modes:
        module.training = mode
    if path is not None and name is not None:
        write_trained(trained, asdict(phase), path, name)
    return trained, phase


@dataclass(frozen=True)
class _Goal:
    """The most epochs, and the accuracy that ends training before."""

    epochs: int
    accuracy: float | None


def _check(images: Tensor, labels: Tensor, epochs: int | None, accuracy: float | None) -> None:
    if epochs is None and accuracy is None:
        raise ValueError("epochs, accuracy: expected at least one of them")
    if epochs is not None:
        check.check_count("epochs", epochs, least=0)
    if accuracy is not None and check.check_fraction("accuracy", accuracy) == 0:
        raise ValueError("accuracy must be above 0, found 0")
    for name, tensor in (("images", images), ("labels", labels)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, found {type(tensor).__name__}")
    if images.dim() < 2 or images.shape[0] < 1:
        raise ValueError(f"images: expected [N, *input_shape] with N > 0, found {list(images.shape)}")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        found = f"{labels.dtype} {list(labels.shape)}"
        raise ValueError(f"labels: expected {images.shape[0]} integers, found {found}")


def _train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    goal: _Goal,
    descent: Descent,
    show: Callable[[Phase], None],
) -> Phase:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = OPTIMIZERS[descent.optimizer][1](trainable, descent.lr)
    order = torch.Generator().manual_seed(descent.seed)
    phase = _phase(model, images, labels, 0, 0, goal.accuracy)
    for epoch in range(1, goal.epochs + 1):
        if phase.reached:
            break
        model.train()
        steps = phase.steps
        for rows in torch.randperm(len(images), generator=order).split(descent.batch_size):
            rows = rows.to(images.device)
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            steps += 1
        phase = _phase(model, images, labels, epoch, steps, goal.accuracy)
        if not math.isfinite(phase.loss):
            where = f"at {descent.lr:g} ({descent.optimizer})"
            raise ValueError(f"lr: training diverged in epoch {epoch} {where}")
        show(phase)
    optimizer.zero_grad()
    return phase


@torch.no_grad()
def _phase(
    model: nn.Module, images: Tensor, labels: Tensor, epochs: int, steps: int, goal: float | None
) -> Phase:
    model.eval()
    right, loss = 0, 0.0
    for inputs, truth in zip(images.split(512), labels.split(512), strict=True):
        output = model(inputs)
        if truth.min() < 0 or truth.max() >= output.shape[1]:
            raise ValueError(f"labels: expected 0..{output.shape[1] - 1}, found {truth.min()}..{truth.max()}")
        right += int((output.argmax(1) == truth).sum())
        loss += float(F.cross_entropy(output, truth, reduction="sum"))
    share = right / len(images)
    return Phase(epochs, steps, share, loss / len(images), None if goal is None else share >= goal)


@contextlib.contextmanager
def _bar(shown: bool, epochs: int) -> Iterator[Callable[[Phase], None]]:
    """Take each epoch's phase, and show it on a bar if that is wanted."""
    if not shown:
        yield lambda phase: None
        return
    with needs("cli", "progress bars"):
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from sapag_fast.runtime.screen import Screen

    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.fields[outcome]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Screen(stderr=True)) as bar:
        task = bar.add_task("", total=epochs, outcome="")

        def shown_phase(phase: Phase) -> None:
            words = f"epoch {phase.epochs}, accuracy {phase.accuracy:.3f}, loss {phase.loss:.3f}"
            bar.update(task, completed=phase.epochs, outcome=words)

        yield shown_phase
