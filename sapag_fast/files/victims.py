"""The victims in a folder of gradient files, or in one file of many, listed before any gradient is read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sapag_fast.files.fault import guarded
from sapag_fast.files.gradient_file import (
    CHECKSUM,
    STACKED,
    GradientMetadata,
    check_checksum,
    gradient_in_order,
    json_list,
    read_gradient,
    read_metadata,
)
from sapag_fast.files.regular import shown
from sapag_fast.files.tensors import SUFFIXES, opened_safetensors

__all__ = ["ListedVictim", "described", "file_state", "list_victims"]

# What a gradient file may claim unasked: numbers of a batch and inputs, always and by the file's size.
_ALWAYS_PLAUSIBLE, _NUMBERS_A_BYTE = 1 << 22, 256
_ALWAYS_IMAGES, _BYTES_AN_IMAGE, _MOST_IMAGES = 1 << 10, 8, 1 << 16


@dataclass(frozen=True)
class ListedVictim:
    """A victim whose gradient still lies on disk.

    Attributes
    ----------
    name : str
        As its file says, or is called: not necessarily a name that a file may have.
    path : Path
    row : int or None
        Its row in a file of many victims.
    size : int
        Bytes of the file when it was listed; 0 where that cannot be told.
    state : str
        What tells the file from another in its place, when it was listed (see `file_state`).
    input_shape : tuple of int
        Empty where `fault` says that it is not known.
    batch_size : int
    labels : tuple of int or None
        B true labels, where the file gives them.
    weights : str or None
        `model_fingerprint` of the model that the gradient was captured from, where the file gives it.
    mean, std : tuple of float or None
        With which the client normalised its pictures, where the file says it.
    fault : str or None
        Why it cannot be read.
    averaged_batches : int
        Mini-batches whose gradients the client averaged, as the file says.
    """

    name: str
    path: Path
    row: int | None
    size: int
    state: str = ""
    input_shape: tuple[int, ...] = ()
    batch_size: int = 1
    labels: tuple[int, ...] | None = None
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fault: str | None = None
    averaged_batches: int = 1

    def gradient(self, model: nn.Module) -> list[Tensor | None]:
        """Read the gradient, in the order of the model's trained parameters; None where withheld.

        Raises
        ------
        ValueError
            Where it does not fit the model or is not finite, and where the file is another now than the one
            that was listed: what was listed of it may be wrong of this one.
        """
        gradient = self._read(model)
        if (self.size, self.state) != file_state(self.path):
            raise ValueError(f"gradient file {shown(self.path)}: has changed since it was listed")
        return gradient

    @property
    def metadata_sha256(self) -> str:
        """SHA-256 of its input shape, batch size and labels; empty where they are not known."""
        if self.fault is not None:
            return ""
        words = (list(self.input_shape), self.batch_size, None if self.labels is None else list(self.labels))
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()

    def _read(self, model: nn.Module) -> list[Tensor | None]:
        if self.row is None:
            return read_gradient(model, self.path)[0]
        with opened_safetensors(self.path, "gradient") as opened:
            slices = {name: opened.get_slice(name) for name in list(opened.keys())}
            rows = {name: part[self.row : self.row + 1].squeeze(0) for name, part in slices.items()}
            checksums = json_list(opened.metadata() or {}, CHECKSUM, self.path)
        if checksums:
            check_checksum(rows, checksums[self.row] if self.row < len(checksums) else "", self.path)
        return gradient_in_order(model, rows, f"{self.path} (victim {self.row})")


def list_victims(
    path: Path, model: nn.Module, input_shape: tuple[int, ...] | None, batch_size: int | None
) -> list[ListedVictim]:
    """List the victims in a folder of gradient files, or in one file, with no gradient read.

    Parameters
    ----------
    path : Path
    model : nn.Module
        A file of many victims is compared with its parameters.
    input_shape : tuple of int or None
    batch_size : int or None
        None: as each file says, 1 where it does not.

    Returns
    -------
    list of ListedVictim
        A file of the folder that cannot be read is listed with its fault.

    Raises
    ------
    ValueError
        Where there is no victim, and for a file of many that does not fit the model.
    """
    if not path.exists():
        raise ValueError(f"gradients {shown(path)}: does not exist")
    if not path.is_dir():
        state, entries = file_state(path), read_metadata(path)
        if STACKED in entries:
            return list(_stacked(path, state, entries, model, input_shape, batch_size))
        return [described(path.stem, path, state, entries, input_shape, batch_size)]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"gradients {shown(path)}: holds no gradient file ({', '.join(sorted(SUFFIXES))})")
    by_stem = len({file.stem for file in files}) == len(files)
    victims: list[ListedVictim] = []
    taken: set[str] = set()
    for file in files:
        name = _unicode(file.stem if by_stem else file.name)
        while name in taken:  # spelled out, two names may be one
            name += "'"
        taken.add(name)
        victims.append(_listed(name, file, file_state(file), None, input_shape, batch_size))
    return victims


def _listed(
    name: str,
    path: Path,
    state: tuple[int, str],
    entries: Mapping[str, str] | None,
    input_shape: tuple[int, ...] | None,
    batch_size: int | None,
    victims: int = 1,
) -> ListedVictim:
    """Describe a victim, by its file's own metadata where no `entries` are given; what fails is its fault."""
    faults: dict[str, str] = {}
    with guarded(name, faults):
        entries = read_metadata(path) if entries is None else entries
        return described(name, path, state, entries, input_shape, batch_size, victims)
    return ListedVictim(name, path, None, *state, fault=faults[name])


def described(
    name: str,
    path: Path,
    state: tuple[int, str],
    entries: Mapping[str, str],
    input_shape: tuple[int, ...] | None,
    batch_size: int | None,
    victims: int = 1,
) -> ListedVictim:
    """Take what the options say, else the metadata; the fault tells what is missing or makes no sense.

    The file's `state` (see `file_state`) is of before its metadata were read.
    What options give is not looked up in the metadata. What the file alone claims must be plausible: its size
    (of `victims` together) bounds the memory that a search of it is begun with.
    """
    given = {"input_shape": input_shape, "batch_size": batch_size}
    victim = ListedVictim(name, path, None, *state, batch_size=batch_size or 1)
    try:
        told = GradientMetadata.parsed({key: e for key, e in entries.items() if given.get(key) is None})
        shape, images = input_shape or told.input_shape, batch_size or told.batch_size or 1
        if not shape:
            raise ValueError("does not say the input shape; pass --input-shape")
        if input_shape is None or (batch_size is None and told.batch_size):
            _check_plausible(shape, images, victim.size // victims, asked=batch_size is not None)
        if told.labels and batch_size is None and len(told.labels) != images:
            raise ValueError(f"its labels: expected {images} for its batch_size, found {len(told.labels)}")
    except ValueError as error:
        return replace(victim, fault=str(error))
    return replace(
        victim,
        input_shape=shape,
        batch_size=images,
        labels=told.labels,
        weights=told.weights,
        mean=told.mean,
        std=told.std,
        averaged_batches=told.averaged_batches,
    )


def _check_plausible(shape: tuple[int, ...], images: int, nbytes: int, *, asked: bool) -> None:
    """Raise ValueError where a gradient of so many bytes can hardly stand for such inputs.

    Where they were `asked` for, the number of inputs is the user's own.
    """
    numbers, most = images * math.prod(shape), max(_ALWAYS_PLAUSIBLE, _NUMBERS_A_BYTE * nbytes)
    inputs = images if asked else min(_MOST_IMAGES, max(_ALWAYS_IMAGES, nbytes // _BYTES_AN_IMAGE))
    if numbers > most or images > inputs:
        claim = f"its input_shape {'x'.join(map(str, shape))} and batch_size {images}"
        raise ValueError(
            f"{claim}: expected at most {most} numbers and {inputs} inputs behind {nbytes} bytes of "
            f"gradient, found {numbers} and {images}; pass --input-shape and --batch-size if that is so"
        )


def _stacked(
    path: Path,
    state: tuple[int, str],
    entries: Mapping[str, str],
    model: nn.Module,
    input_shape: tuple[int, ...] | None,
    batch_size: int | None,
) -> Iterator[ListedVictim]:
    listed = json_list(entries, STACKED, path)
    names = [_unicode(name) for name in listed if isinstance(name, str)]
    if not names or len(set(names)) < len(listed):
        raise ValueError(f"gradient file {shown(path)}: its {STACKED} are not a JSON list of different names")
    with opened_safetensors(path, "gradient") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in list(opened.keys())}
    for name, shape in shapes.items():
        if not shape or shape[0] != len(names):
            raise ValueError(f"gradient file {shown(path)}: {name} is {shape}; expected {len(names)} rows")
    empty = {name: torch.empty(shape[1:], device="meta") for name, shape in shapes.items()}
    gradient_in_order(model, empty, path, finite=False)
    labels = json_list(entries, "labels", path)
    if labels and len(labels) != len(names):
        raise ValueError(
            f"gradient file {shown(path)}: labels of {len(labels)} victims, names of {len(names)}"
        )
    for row, name in enumerate(names):
        classes = labels[row] if labels else []
        own = ",".join(map(_word, classes if isinstance(classes, list) else [classes]))
        told = {**entries, "labels": own}
        yield replace(_listed(name, path, state, told, input_shape, batch_size, len(names)), row=row)


def file_state(file: Path) -> tuple[int, str]:
    """Its size in bytes, and a text that another file in its place has not; 0 and empty where there is none.

    The text holds the number of the file (inode) and the times of the last changes of its content and of its
    entry: gradients of one model are of one size, files written together may have one time, and a file that
    takes another's name keeps the time of its content.
    """
    try:
        found = file.stat()
    except OSError:
        return 0, ""
    return found.st_size, f"{found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns}"


def _unicode(name: str) -> str:
    """Spell out what is no character in the name: file names may hold any bytes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _word(label: object) -> str:
    return str(label) if type(label) is int else type(label).__name__
