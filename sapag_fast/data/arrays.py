"""NumPy archives (.npz) with an array of images and one of labels."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sapag_fast.data.conventions import (
    DataError,
    Images,
    check_unpacked,
    checked_labels,
    chosen_slice,
    damage_named,
    pixels,
    read_fully,
    skip,
)
from sapag_fast.files.regular import regular_file

PAIRS = (("images", "labels"), ("x", "y"), ("X", "Y"), ("X", "y"))
LAYOUTS = ("NHW", "NHWC", "NCHW")
_LONGEST_HEADER = 1 << 16


@dataclass(frozen=True)
class _Header:
    """What an array says of itself, and where its numbers begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    begin: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_arrays(
    path: str | Path,
    *,
    images: str | None = None,
    labels: str | None = None,
    layout: str | None = None,
    split: str | None = None,
    first: int = 0,
    count: int | None = None,
    classes: int | None = None,
) -> Images:
    """Images and labels from a .npz file. Python objects in it are refused; no more than the slice is kept.

    Parameters
    ----------
    path : str or Path
    images, labels : str, optional
        Names of the arrays; None: ``images`` and ``labels``, or ``x`` and ``y``, with ``_train`` or the like
        after them where `split` is given.
    layout : str, optional
        ``NHW``, ``NHWC`` or ``NCHW``; None: by where the 1 or 3 channels are.
    split : str, optional
        The ending of the names.
    first, count
        Which images.
    classes : int, optional
        Labels must lie below it; None: any.

    Raises
    ------
    ValueError
        Naming the file, for one that is damaged or truncated, arrays that are missing or of another type or
        shape, images outside [0, 1] (float) or of no byte above 1 (uint8) and a layout that cannot be told.
    """
    path = regular_file(path, "data set")
    if split is not None and not isinstance(split, str):
        raise TypeError(f"split must be a string, found {type(split).__name__}")
    with _opened(path) as archive:
        names = _names(path, archive, images, labels, split)
        shapes = [_header(path, archive, name).shape for name in names]
    if len(shapes[1]) not in (1, 2) or shapes[1][1:] not in ((), (1,)):
        raise DataError(f"{path}: {names[1]}: expected shape [N], found {list(shapes[1])}")
    layout = _layout(path, names[0], shapes[0], layout)
    if shapes[0][0] != shapes[1][0]:
        raise DataError(
            f"{path}: {shapes[0][0]} images in {names[0]}, but {shapes[1][0]} labels in {names[1]}"
        )
    chosen = chosen_slice(first, count, shapes[0][0], path)
    with _opened(path) as archive:
        values, numbers = (_rows(path, archive, name, chosen) for name in names)
    if numbers.dtype.kind not in "iu":
        raise DataError(f"{path}: {names[1]}: expected integers, found {numbers.dtype}")
    if layout == "NHW":
        values = values[:, None]
    elif layout == "NHWC":
        values = values.transpose(0, 3, 1, 2)
    picture = _pixels(path, names[0], values)
    return picture, checked_labels(numbers.reshape(-1), classes, path, chosen.start)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with damage_named(path, "damaged, truncated or no .npz file"), zipfile.ZipFile(path) as archive:
        yield archive


def _names(
    path: Path, archive: zipfile.ZipFile, images: str | None, labels: str | None, split: str | None
) -> tuple[str, str]:
    held = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    ending = f"_{split}" if split else ""
    candidates = [(images or a + ending, labels or b + ending) for a, b in PAIRS]
    for pair in candidates:
        if all(name in held for name in pair):
            if any(held.count(name) > 1 for name in pair):
                raise DataError(f"{path}: holds {' or '.join(pair)} twice")
            return pair
    expected = " or ".join(f"{a} and {b}" for a, b in dict.fromkeys(candidates))
    asked = f" for split={split!r}" if split else ""
    raise DataError(f"{path}: expected arrays {expected}{asked}; found {', '.join(held) or 'none'}")


def _header(path: Path, archive: zipfile.ZipFile, name: str) -> _Header:
    """Read the header of an array, and compare it with the bytes that the archive says follow."""
    record = archive.getinfo(f"{name}.npy")
    with archive.open(record) as file:
        begin = io.BytesIO(file.read(_LONGEST_HEADER))
    try:
        version = np.lib.format.read_magic(begin)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"version {version} of the format is not read")
        header = _Header(*read[version](begin), begin.tell())
    except Exception as error:  # numpy evaluates a Python literal here
        raise DataError(f"{path}: {name}: not an array of numbers: {error}") from None
    if header.dtype.kind not in "uif":
        found = f"{header.dtype} (Python objects are not read)"
        raise DataError(f"{path}: {name}: expected numbers, found {found}")
    if not header.shape:
        raise DataError(f"{path}: {name}: expected an array, found a single number")
    if header.nbytes != record.file_size - header.begin:
        word = "truncated: " if header.nbytes > record.file_size - header.begin else ""
        raise DataError(
            f"{path}: {name}: {word}the header says {header.nbytes} bytes ({list(header.shape)}), but "
            f"{record.file_size - header.begin} follow"
        )
    return header


def _rows(path: Path, archive: zipfile.ZipFile, name: str, chosen: slice) -> np.ndarray:
    header, record = _header(path, archive, name), archive.getinfo(f"{name}.npy")
    entry = header.nbytes // header.shape[0]
    kept = header.nbytes if header.fortran else (chosen.stop - chosen.start) * entry
    check_unpacked(path, record.compress_size, header.nbytes, held=5 * kept)  # as read, and as float32
    with archive.open(record) as file:
        skip(file, header.begin, path)
        if header.fortran:  # the first index runs fastest: a slice is scattered over the whole
            content = read_fully(file, header.nbytes, path)
            return np.frombuffer(content, header.dtype).reshape(header.shape, order="F")[chosen]
        skip(file, chosen.start * entry, path)
        content = read_fully(file, kept, path)
        return np.frombuffer(content, header.dtype).reshape(-1, *header.shape[1:])


def _layout(path: Path, name: str, shape: tuple[int, ...], layout: str | None) -> str:
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, found {layout!r}")
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise DataError(
            f"{path}: {name}: expected [N, H, W], [N, H, W, C] or [N, C, H, W], found {list(shape)}"
        )
    fits = [
        known
        for known in LAYOUTS
        if len(known) == len(shape) and ("C" not in known or shape[known.index("C")] in (1, 3))
    ]
    if layout is not None:
        if layout not in fits:
            raise DataError(f"{path}: {name}: layout {layout} (C = 1 or 3) does not fit {list(shape)}")
        return layout
    if len(fits) != 1:
        why = "both NHWC and NCHW fit; pass layout=" if fits else "no dimension of 1 or 3 channels"
        raise DataError(f"{path}: {name}: {list(shape)}: {why}")
    return fits[0]


def _pixels(path: Path, name: str, values: np.ndarray) -> Tensor:
    if values.dtype == np.uint8:
        return pixels(values, f"{path}: {name}")
    low, high = values.min(), values.max()
    if values.dtype.kind != "f":
        found = f"{values.dtype} from {low} to {high}"
        raise DataError(f"{path}: {name}: expected uint8, or float in [0, 1], found {found}")
    if not (low >= 0 and high <= 1):  # also where one is nan
        raise DataError(f"{path}: {name}: expected values in [0, 1], found {low} to {high}")
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
