"""The victims of a run: gradients to invert, read from disk one at a time, and the true images where known.

Many victims of one model come as a folder of gradient files, or as one safetensors file in which every tensor
has a leading dimension V; its metadata names them (``victims``, a JSON list) and may give their ``labels`` (a
JSON list of V lists).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sapag_fast import data
from sapag_fast.files.fingerprint import model_fingerprint
from sapag_fast.files.gradient_file import STACKED, batch_name, gradient_in_order, read_gradient
from sapag_fast.files.tensors import TORCH_SUFFIXES, opened_safetensors
from sapag_fast.reports.pictures import is_image
from sapag_fast.runtime.extras import needs

with needs("audit", "audits"):
    import click

__all__ = [
    "Listed",
    "Truth",
    "Victim",
    "list_victims",
    "read_victims",
]

SUFFIXES = TORCH_SUFFIXES | {".safetensors"}


@dataclass(frozen=True)
class Victim:
    """One gradient to invert: ``gradient`` in the order of the model's parameters, None where withheld; truth
    [B, *input_shape] if known.
    """

    name: str
    gradient: list[Tensor | None]
    input_shape: tuple[int, ...]
    batch_size: int
    true_labels: Tensor | None
    truth: Tensor | None


@dataclass(frozen=True)
class Listed:
    """A victim whose gradient still lies on disk.

    Attributes
    ----------
    name : str
        As its file says, or is called: not necessarily a name that a file may have.
    path : Path
    row : int or None
        Its row in a file of many victims.
    size : int
        Bytes of the file.
    input_shape : tuple of int
        Empty where `fault` says that it is not known.
    batch_size : int
    labels : tuple of int or None
        B true labels, where the file gives them.
    weights : str or None
        `model_fingerprint` of the model that the gradient was captured from, where the file gives it.
    fault : str or None
        Why it cannot be read.
    """

    name: str
    path: Path
    row: int | None
    size: int
    input_shape: tuple[int, ...] = ()
    batch_size: int = 1
    labels: tuple[int, ...] | None = None
    weights: str | None = None
    fault: str | None = None

    def gradient(self, model: nn.Module) -> list[Tensor]:
        """The gradient in the order of the model's parameters. Raises ValueError where it cannot be used, or
        is not whole.
        """
        if self.row is None:
            gradient = [tensor for tensor in read_gradient(model, self.path)[0] if tensor is not None]
            if len(gradient) < sum(parameter.requires_grad for parameter in model.parameters()):
                raise ValueError("its client withheld a part of the gradient; recover takes it, an audit not")
            return gradient
        with opened_safetensors(self.path, "gradient") as opened:
            slices = {name: opened.get_slice(name) for name in list(opened.keys())}
            rows = {name: part[self.row : self.row + 1].squeeze(0) for name, part in slices.items()}
        return gradient_in_order(model, rows, f"{self.path} (victim {self.row})")


def read_victims(
    model: nn.Module,
    gradients: Sequence[Path],
    truth: Sequence[Path],
    input_shape: tuple[int, ...] | None,
    batch_size: int | None,
    device: torch.device,
) -> list[Victim]:
    """Every gradient file, with what its metadata says where the options do not. Raises ValueError if
    something is missing.
    """
    names = [path.stem for path in gradients]
    if len(set(names)) < len(names):
        names = [f"{position:02d}-{name}" for position, name in enumerate(names)]
    victims = []
    for name, path in zip(names, gradients, strict=True):
        gradient, metadata = read_gradient(model, path)
        listed = _described(name, path, None, metadata, input_shape, batch_size)
        if listed.fault:
            raise ValueError(f"gradient file {path}: {listed.fault}")
        if listed.weights and listed.weights != model_fingerprint(model):
            click.echo(
                f"sapag-fast: warning: {path} was captured with other weights than the model has now",
                err=True,
            )
        known = None if listed.labels is None else torch.tensor(listed.labels)
        on_device = [None if g is None else g.to(device) for g in gradient]
        victims.append(Victim(name, on_device, listed.input_shape, listed.batch_size, known, None))
    return _with_truth(victims, truth) if truth else victims


def list_victims(
    path: Path, model: nn.Module, input_shape: tuple[int, ...] | None, batch_size: int | None
) -> list[Listed]:
    """The victims in a folder of gradient files, or in one file, with no gradient read.

    A file of the folder that cannot be read is listed with its fault. Raises ValueError where there is no
    victim, and for a file of many that does not fit the model.
    """
    if not path.exists():
        raise ValueError(f"gradients {path}: does not exist")
    if not path.is_dir():
        metadata = _metadata(path)
        if STACKED in metadata:
            return list(_stacked(path, metadata, model, input_shape, batch_size))
        return [_described(path.stem, path, None, metadata, input_shape, batch_size)]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"gradients {path}: holds no gradient file ({', '.join(sorted(SUFFIXES))})")
    by_stem = len({file.stem for file in files}) == len(files)
    victims = []
    for file in files:
        name = _unicode(file.stem if by_stem else file.name)
        try:
            victims.append(_described(name, file, None, _metadata(file), input_shape, batch_size))
        except ValueError as error:
            size = file.stat().st_size if file.is_file() else 0
            victims.append(Listed(name, file, None, size, fault=str(error)))
    return victims


def _stacked(
    path: Path,
    metadata: Mapping[str, str],
    model: nn.Module,
    input_shape: tuple[int, ...] | None,
    batch_size: int | None,
) -> Iterator[Listed]:
    names = [_unicode(name) for name in _json_list(metadata[STACKED]) if isinstance(name, str)]
    if not names or len(set(names)) < len(_json_list(metadata[STACKED])):
        raise ValueError(f"gradient file {path}: its {STACKED} are not a JSON list of different names")
    with opened_safetensors(path, "gradient") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in list(opened.keys())}
    for name, shape in shapes.items():
        if not shape or shape[0] != len(names):
            raise ValueError(f"gradient file {path}: {name} is {shape}; expected {len(names)} rows")
    empty = {name: torch.empty(shape[1:], device="meta") for name, shape in shapes.items()}
    gradient_in_order(model, empty, path, finite=False)
    labels = _json_list(metadata.get("labels", "[]"))
    if labels and len(labels) != len(names):
        raise ValueError(f"gradient file {path}: labels of {len(labels)} victims, names of {len(names)}")
    for row, name in enumerate(names):
        classes = labels[row] if labels else []
        own = ",".join(map(str, classes if isinstance(classes, list) else [classes]))
        yield _described(name, path, row, {**metadata, "labels": own}, input_shape, batch_size)


def _described(
    name: str,
    path: Path,
    row: int | None,
    metadata: Mapping[str, str],
    input_shape: tuple[int, ...] | None,
    batch_size: int | None,
) -> Listed:
    """What the options say, else the metadata."""
    size = path.stat().st_size
    shape = input_shape or _numbers(metadata.get("input_shape", ""), "x")
    if not shape or min(shape) < 1:
        fault = "does not say the input shape; pass --input-shape"
        return Listed(name, path, row, size, batch_size=batch_size or 1, fault=fault)
    recorded = metadata.get("batch_size", "")
    images = batch_size or (int(recorded) if recorded.isdecimal() and int(recorded) else 1)
    labels = _numbers(metadata.get("labels", ""), ",")
    return Listed(name, path, row, size, shape, images, labels, metadata.get("weights_sha256"))


def _metadata(path: Path) -> dict[str, str]:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"gradient file {path}: expected {', '.join(sorted(SUFFIXES))}")
    if not path.is_file():
        raise ValueError(f"gradient file {path}: not a file")
    if path.suffix.lower() != ".safetensors":
        return {}
    with opened_safetensors(path, "gradient") as opened:
        return dict(opened.metadata() or {})


def _unicode(name: str) -> str:
    """The name with what is no character (file names may hold any bytes) spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


def _json_list(text: str) -> list:
    try:
        content = json.loads(text)
    except ValueError:
        return []
    return content if isinstance(content, list) else []


def _numbers(text: str, separator: str) -> tuple[int, ...] | None:
    parts = text.split(separator)
    return tuple(map(int, parts)) if all(map(str.isdecimal, parts)) else None


def _with_truth(victims: list[Victim], paths: Sequence[Path]) -> list[Victim]:
    """Deal the true images out to the victims in order."""
    shapes = {victim.input_shape for victim in victims}
    if len(shapes) > 1:
        raise ValueError("--truth needs gradients of one input shape")
    images = data.read_images(paths, shapes.pop())
    sizes = [victim.batch_size for victim in victims]
    if len(images) != sum(sizes):
        raise ValueError(f"--truth gives {len(images)} images, the gradients stand for {sum(sizes)}")
    pairs = zip(victims, images.split(sizes), strict=True)
    return [replace(victim, truth=batch) for victim, batch in pairs]


class Truth:
    """The true images of listed victims, read when they are asked for.

    Batches of images are the victims' whose names they have (see `batch_name`); where a victim's name is
    missing, all images are dealt out in order.

    Raises
    ------
    ValueError
        Where neither way fits, or a victim's input is not an image.
    """

    def __init__(self, paths: Sequence[Path], victims: Sequence[Listed]) -> None:
        files = data.image_files(paths)
        readable = [victim for victim in victims if victim.fault is None]
        for victim in readable:
            if not is_image(victim.input_shape):
                raise ValueError(f"--truth: the input of {victim.name!r} is not an image of 1 or 3 channels")
        sizes = {victim.batch_size for victim in readable} or {1}
        usual = sizes.pop() if len(sizes) == 1 else None
        self._files: dict[str, list[Path]] = {}
        if usual is not None:
            batches = [files[at : at + usual] for at in range(0, len(files), usual)]
            named = {batch_name(batch): batch for batch in batches if len(batch) == usual}
            if all(victim.name in named for victim in victims):
                self._files = {victim.name: named[victim.name] for victim in victims}
                return
        counts = [victim.batch_size if victim.fault is None else usual or 1 for victim in victims]
        if len(files) != sum(counts):
            raise ValueError(
                f"--truth gives {len(files)} images, whose names are not the victims'; the gradients stand "
                f"for {sum(counts)}"
            )
        remaining = iter(files)
        for victim, count in zip(victims, counts, strict=True):
            self._files[victim.name] = [next(remaining) for _ in range(count)]

    def of(self, victim: Listed) -> Tensor:
        """``[B, *input_shape]``. Raises ValueError for an image that cannot be read."""
        return data.read_images(self._files[victim.name], victim.input_shape)
