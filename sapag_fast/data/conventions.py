"""What all readers of data sets share: slices, splits, labels in range, and whole reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from sapag_fast.files.regular import regular_file, shown
from sapag_fast.runtime.memory import free_bytes

Images = tuple[Tensor, Tensor]

SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train", "data_batch"),
    "test": ("test", "t10k"),
    "val": ("val", "valid", "dev"),
    "extra": ("extra",),
}
"""Splits, and what files and folders of each have in their names."""

_PIECE = 1 << 24
_SMALL = 1 << 28  # bytes that any file may unpack to
_DENSEST = 200  # bytes that a larger file's byte may unpack to; pictures stay below 100, zeros reach 1000


class DataError(ValueError):
    """What is wrong with a data set; the message names the file."""


@contextmanager
def damage_named(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a damaged file makes other libraries raise into a `DataError` that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{shown(path)}: {expected}: {str(error) or type(error).__name__}") from None


def chosen_slice(first: int, count: int | None, available: int, path: Path) -> slice:
    """The slice of `available` entries. Raises ValueError, naming the file, where it does not lie inside."""
    for name, value in (("first", first), ("count", 0 if count is None else count)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, found {type(value).__name__}")
    wanted = available - first if count is None else count
    if first < 0 or wanted < 1 or first + wanted > available:
        raise DataError(
            f"{shown(path)}: first={first}, count={count}: the file or folder holds {available} entries"
        )
    return slice(first, first + wanted)


def of_split(files: Iterable[Path], split: str | None, path: Path) -> list[Path]:
    """The files of one split, or all of them where they belong to none or all to the same.

    Raises ValueError where the split is unknown or missing, and where `split` is None and there are several.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, found {split!r}")
    files = list(files)
    found = {file: _split_of(file) for file in files}
    splits = {name for name in found.values() if name}
    if split is None:
        if len(splits) > 1:
            raise DataError(f"{shown(path)}: holds several splits ({', '.join(sorted(splits))}); pass split=")
        return files
    if split not in splits:
        held = ", ".join(sorted(splits)) or "no split by name"
        raise DataError(f"{shown(path)}: split {split!r} is not there; found {held}")
    return [file for file in files if found[file] == split]


def _split_of(file: Path) -> str | None:
    name = file.name.lower()
    return next((split for split, words in SPLITS.items() if any(word in name for word in words)), None)


def checked_labels(labels: np.ndarray, classes: int | None, path: Path, first: int = 0) -> Tensor:
    """Labels as int64 ``[N]``.

    Raises ValueError for one below 0 or, where `classes` is given, not below it; `first` is the position of
    the first label in the file.
    """
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 1):
        raise ValueError(f"classes must be a positive int, found {classes!r}")
    outside = (labels < 0) | (labels >= (2**63 if classes is None else classes))
    if outside.any():
        at = int(outside.argmax())
        expected = f"0..{2**63 - 1}" if classes is None else f"0..{classes - 1} (classes={classes})"
        raise DataError(f"{shown(path)}: label {labels[at]} at position {first + at}; expected {expected}")
    return torch.from_numpy(labels.astype(np.int64))


def pixels(values: np.ndarray, where: str) -> Tensor:
    """Unsigned bytes as contiguous float32 in [0, 1].

    Raises `DataError`, which begins with `where` they are, for bytes of which 1 is the largest: white is 255.
    """
    if values.size and values.max() == 1:
        raise DataError(
            f"{where}: expected bytes up to 255 for white, found 1 as the largest (black); if 1 is "
            "white, multiply by 255"
        )
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).div_(255)


def read_fully(file: IO[bytes], size: int, path: Path) -> bytearray:
    """The next `size` bytes, read piecewise: what a damaged header asks for is not allocated at once.

    Raises ValueError where the file ends before.
    """
    content = bytearray()
    while len(content) < size:
        piece = file.read(min(_PIECE, size - len(content)))
        if not piece:
            raise DataError(f"{shown(path)}: truncated: {size} bytes expected, {len(content)} found")
        content += piece
    return content


def skip(file: IO[bytes], size: int, path: Path) -> None:
    """Go `size` bytes on, also in a compressed stream. Raises ValueError where the file ends before."""
    while size > 0:
        piece = len(file.read(min(_PIECE, size)))
        if not piece:
            raise DataError(f"{shown(path)}: truncated: {size} bytes are missing")
        size -= piece


def check_unpacked(path: Path, packed: int, unpacked: int, *, held: int) -> None:
    """Check, before anything is unpacked, that no bomb is.

    Parameters
    ----------
    path : Path
        Names the file in messages.
    packed, unpacked : int
        Bytes of the file, and what they say that they unpack to.
    held : int
        Bytes that will be held at once.

    Raises
    ------
    DataError
        Where that is more than memory bears, or more than images pack to.
    """
    if unpacked > max(_SMALL, _DENSEST * packed):
        expected = f"expected at most {_DENSEST} times as many"
        raise DataError(f"{shown(path)}: {packed} bytes that unpack to {unpacked}; {expected}")
    if held > _SMALL and held > (free := free_bytes(torch.device("cpu"))):
        raise DataError(f"{shown(path)}: reading it takes {held} bytes of memory, {free} are free")


def existing(path: str | Path, what: str) -> Path:
    """The path of a folder or a regular file. Raises ValueError for anything else."""
    return Path(path) if isinstance(path, str | Path) and Path(path).is_dir() else regular_file(path, what)


def existing_folder(path: str | Path, what: str) -> Path:
    """The path of a folder. Raises ValueError for anything else."""
    path = existing(path, what)
    if not path.is_dir():
        raise ValueError(f"{what} {shown(path)}: is a file; expected a folder")
    return path
