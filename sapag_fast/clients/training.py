"""Victim networks trained to a phase: so many epochs, or up to an accuracy.

Every number comes from the seed: the same call gives the same bits on the same machine and number of threads
(on a GPU as far as its kernels do).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.files.fingerprint import fingerprint
from sapag_fast.models import FunctionalActivation
from sapag_fast.runtime.randomness import seeded

__all__ = ["MOST_EPOCHS", "OPTIMIZERS", "Phase", "train_to"]

MOST_EPOCHS = 300
"""Where an accuracy is asked for without a number of epochs, training gives up here."""

OPTIMIZERS: dict[str, tuple[float, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (0.01, lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=0.9)),
    "adam": (0.001, lambda parameters, lr: torch.optim.Adam(parameters, lr)),
}
"""Default learning rate and constructor by name; SGD has momentum 0.9."""


@dataclass(frozen=True)
class Phase:
    """How far a network was trained.

    ``accuracy`` and ``loss`` (mean cross-entropy) are those of the final network on its training data, in
    evaluation mode; ``reached`` tells whether the accuracy that was asked for was reached, None where none
    was.
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
    optimizer: str = "adam",
    lr: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
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
    optimizer : {"adam", "sgd"}
    lr : float, optional
        None: 0.001 for Adam, 0.01 for SGD.
    seed : int
        Of the order of the images, drawn anew each epoch, and of dropout.
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
    _check(images, labels, epochs, accuracy, optimizer, lr, batch_size)
    lr = OPTIMIZERS[optimizer][0] if lr is None else lr
    epochs = MOST_EPOCHS if epochs is None else epochs
    settings = {
        "epochs": epochs,
        "accuracy": accuracy,
        "optimizer": optimizer,
        "lr": lr,
        "batch_size": batch_size,
        "seed": seed,
    }
    trained = copy.deepcopy(model)
    path = name = None
    if cache is not None:
        name = _fingerprint(model, images, labels, settings)
        path = _folder(cache) / f"{name}.safetensors"
        if (phase := _read(trained, path, name)) is not None:
            return trained, phase
    device = next((tensor.device for tensor in trained.parameters()), images.device)
    images, labels = images.to(device), labels.to(device)
    modes = [(module, module.training) for module in trained.modules()]
    with seeded(seed, device), torch.enable_grad():
        with _bar(progress, epochs) as told:
            phase = _train(trained, images, labels, epochs, accuracy, optimizer, lr, batch_size, seed, told)
    for module, mode in modes:
        module.training = mode
    if path is not None:
        _write(trained, phase, path, name)
    return trained, phase


def _check(
    images: Tensor,
    labels: Tensor,
    epochs: int | None,
    accuracy: float | None,
    optimizer: str,
    lr: float | None,
    batch_size: int,
) -> None:
    if epochs is None and accuracy is None:
        raise ValueError("epochs, accuracy: expected at least one of them")
    if epochs is not None and epochs < 0:
        raise ValueError(f"epochs: expected at least 0, found {epochs}")
    if accuracy is not None and not 0 < accuracy <= 1:
        raise ValueError(f"accuracy: expected a share in (0, 1], found {accuracy}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, found {optimizer!r}")
    if lr is not None and not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"lr: expected a positive number, found {lr}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
    if images.dim() < 2 or images.shape[0] < 1:
        raise ValueError(f"images: expected [N, *input_shape] with N > 0, found {list(images.shape)}")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        found = f"{labels.dtype} {list(labels.shape)}"
        raise ValueError(f"labels: expected {images.shape[0]} integers, found {found}")


def _train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    accuracy: float | None,
    optimizer: str,
    lr: float,
    batch_size: int,
    seed: int,
    told: Callable[[Phase], None],
) -> Phase:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError("model: no parameter requires gradients, so there is nothing to train")
    search = OPTIMIZERS[optimizer][1](trainable, lr)
    order = torch.Generator().manual_seed(seed)
    phase = _phase(model, images, labels, 0, 0, accuracy)
    for epoch in range(1, epochs + 1):
        if phase.reached:
            break
        model.train()
        steps = phase.steps
        for rows in torch.randperm(len(images), generator=order).split(batch_size):
            rows = rows.to(images.device)
            search.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            search.step()
            steps += 1
        phase = _phase(model, images, labels, epoch, steps, accuracy)
        if not math.isfinite(phase.loss):
            raise ValueError(f"lr: training diverged in epoch {epoch} at {lr:g} ({optimizer})")
        told(phase)
    search.zero_grad()
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


def _fingerprint(model: nn.Module, images: Tensor, labels: Tensor, settings: dict[str, object]) -> str:
    """What decides the trained weights: structure and code of the model (not of what its code calls), its
    state, data and settings.
    """
    state = model.state_dict()
    modules = dict(model.named_modules())
    used: list[Callable] = [type(module) for module in modules.values()]
    used += [m.function for m in modules.values() if isinstance(m, FunctionalActivation)]
    words = [
        repr(model),
        sorted({_code(kind) for kind in used}),
        [(name, module.training) for name, module in modules.items()],
        [(name, parameter.requires_grad) for name, parameter in model.named_parameters()],
        list(state),
        settings,
    ]
    return fingerprint(words, [*state.values(), images, labels])


def _code(used: Callable) -> tuple[str, str]:
    """Full name and source of a class or function; of torch's own, and where there is none to read (an
    interactive session's), the name alone. Raises ValueError for a function that its name does not tell.
    """
    used = used.func if isinstance(used, partial) else used
    named = used if hasattr(used, "__qualname__") else type(used)
    if "<" in named.__qualname__ and not isinstance(named, type):
        # Neither which lambda of a line it is nor what it closes over shows in its source.
        raise ValueError(f"cache: {named.__qualname__} could be any function; expected one of a module")
    name = f"{named.__module__}.{named.__qualname__}"
    if name.startswith("torch."):
        return name, ""
    try:
        return name, inspect.getsource(named)
    except (OSError, TypeError):
        return name, ""


def _folder(cache: str | Path) -> Path:
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cache {cache}: cannot be a folder: {error.strerror}") from None
    return Path(cache)


def _write(model: nn.Module, phase: Phase, path: Path, name: str) -> None:
    from sapag_fast.files.tensors import write_tensors

    state, told = model.state_dict(), json.dumps(asdict(phase))
    metadata = {
        "belongs_to": name,
        "phase": told,
        "checksum": _checksum(state, told),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }
    write_tensors(path, state, metadata)


def _read(model: nn.Module, path: Path, name: str) -> Phase | None:
    """Load the file into the model, if it is there and whole."""
    from sapag_fast.files.tensors import read_tensors

    if not path.exists():
        return None
    try:
        state, metadata = read_tensors(path, "trained weight")
        if metadata.get("belongs_to") != name or "phase" not in metadata:
            raise ValueError(f"trained weight file {path}: damaged: holds something else than its name says")
        if metadata.get("checksum") != _checksum(state, metadata["phase"]):
            raise ValueError(f"trained weight file {path}: damaged: its checksum does not fit")
        phase = Phase(**json.loads(metadata["phase"]))
        model.load_state_dict(state)
    except ValueError as error:
        warnings.warn(f"{error}; training anew", stacklevel=3)
        return None
    return phase


def _checksum(state: dict[str, Tensor], phase: str) -> str:
    names = sorted(state)
    return fingerprint([names, phase], [state[name] for name in names])


@contextlib.contextmanager
def _bar(shown: bool, epochs: int) -> Iterator[Callable[[Phase], None]]:
    """Tells each epoch's phase, on a bar if it is to be shown."""
    if not shown:
        yield lambda phase: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=epochs, told="")

        def told(phase: Phase) -> None:
            words = f"epoch {phase.epochs}, accuracy {phase.accuracy:.3f}, loss {phase.loss:.3f}"
            bar.update(task, completed=phase.epochs, told=words)

        yield told
