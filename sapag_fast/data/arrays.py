"""NumPy archives (.npz) with an array of images and one of labels."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from sapag_fast.data.conventions import (
    Images,
    checked_labels,
    chosen_slice,
    existing,
    pixels,
    read_fully,
    skip,
)

PAIRS = (("images", "labels"), ("x", "y"), ("X", "Y"), ("X", "y"))
LAYOUTS = ("NHW", "NHWC", "NCHW")
# A name in the archive that is no text, a way of compression that is not known, a password.
_ODD = (UnicodeDecodeError, NotImplementedError, RuntimeError)
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, *_ODD)


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
        shape, images outside [0, 1] (float) and a layout that cannot be told.
    """
    path = existing(path, "data set", Path.is_file)
    try:
        with zipfile.ZipFile(path) as archive:
            names = _names(path, archive, images, labels, split)
            shapes = [_header(path, archive, name)[0] for name in names]
            if len(shapes[1]) not in (1, 2) or shapes[1][1:] not in ((), (1,)):
                raise ValueError(f"{path}: {names[1]}: expected shape [N], found {list(shapes[1])}")
            layout = _layout(path, names[0], shapes[0], layout)
            if shapes[0][0] != shapes[1][0]:
                raise ValueError(
                    f"{path}: {shapes[0][0]} images in {names[0]}, but {shapes[1][0]} labels in {names[1]}"
                )
            chosen = chosen_slice(first, count, shapes[0][0], path)
            values, numbers = (_rows(path, archive, name, chosen) for name in names)
    except _DAMAGED as error:
        raise ValueError(f"{path}: damaged, truncated or no .npz file: {error}") from None
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"{path}: {names[1]}: expected integers, found {numbers.dtype}")
    if layout == "NHW":
        values = values[:, None]
    elif layout == "NHWC":
        values = values.transpose(0, 3, 1, 2)
    picture = _pixels(path, names[0], values)
    return picture, checked_labels(numbers.reshape(-1), classes, path, chosen.start)


def _names(
    path: Path, archive: zipfile.ZipFile, images: str | None, labels: str | None, split: str | None
) -> tuple[str, str]:
    held = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    ending = f"_{split}" if split else ""
    candidates = [(images or a + ending, labels or b + ending) for a, b in PAIRS]
    for pair in candidates:
        if all(name in held for name in pair):
            return pair
    expected = " or ".join(f"{a} and {b}" for a, b in dict.fromkeys(candidates))
    raise ValueError(f"{path}: expected arrays {expected}; found {', '.join(held) or 'none'}")


def _header(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    with archive.open(f"{name}.npy") as file:
        return _described(path, name, file)


def _described(path: Path, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, type. Leaves the file where the numbers begin."""
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"version {version} of the format is not read")
        shape, fortran, dtype = read[version](file)
    except (ValueError, tokenize.TokenError, SyntaxError) as error:
        raise ValueError(f"{path}: {name}: not an array of numbers: {error}") from None
    if dtype.kind not in "uif":
        raise ValueError(f"{path}: {name}: expected numbers, found {dtype} (Python objects are not read)")
    if not shape:
        raise ValueError(f"{path}: {name}: expected an array, found a single number")
    return shape, fortran, dtype


def _rows(path: Path, archive: zipfile.ZipFile, name: str, chosen: slice) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        shape, fortran, dtype = _described(path, name, file)
        if fortran:  # the first index runs fastest: a slice is scattered over the whole
            content = read_fully(file, math.prod(shape) * dtype.itemsize, path)
            return np.frombuffer(content, dtype).reshape(shape, order="F")[chosen]
        entry = math.prod(shape[1:]) * dtype.itemsize
        skip(file, chosen.start * entry, path)
        content = read_fully(file, (chosen.stop - chosen.start) * entry, path)
        return np.frombuffer(content, dtype).reshape(-1, *shape[1:])


def _layout(path: Path, name: str, shape: tuple[int, ...], layout: str | None) -> str:
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, found {layout!r}")
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(
            f"{path}: {name}: expected [N, H, W], [N, H, W, C] or [N, C, H, W], found {list(shape)}"
        )
    fits = [
        known
        for known in LAYOUTS
        if len(known) == len(shape) and ("C" not in known or shape[known.index("C")] in (1, 3))
    ]
    if layout is not None:
        if layout not in fits:
            raise ValueError(f"{path}: {name}: layout {layout} (C = 1 or 3) does not fit {list(shape)}")
        return layout
    if len(fits) != 1:
        why = "both NHWC and NCHW fit; pass layout=" if fits else "no dimension of 1 or 3 channels"
        raise ValueError(f"{path}: {name}: {list(shape)}: {why}")
    return fits[0]


def _pixels(path: Path, name: str, values: np.ndarray) -> Tensor:
    if values.dtype == np.uint8:
        return pixels(values)
    if values.dtype.kind != "f":
        raise ValueError(f"{path}: {name}: expected uint8 or float, found {values.dtype}")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # also where one is nan
        raise ValueError(f"{path}: {name}: expected values in [0, 1], found {low} to {high}")
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
