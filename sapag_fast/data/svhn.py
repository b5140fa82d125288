"""Street View House Numbers (Netzer et al. 2011), format 2: cropped digits in a MATLAB file.

``X`` holds bytes [32, 32, 3, N], ``y`` the labels [N, 1], 1..10, where 10 stands for the digit 0.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from sapag_fast.data.conventions import (
    DataError,
    Images,
    check_unpacked,
    checked_labels,
    chosen_slice,
    damage_named,
    existing,
    of_split,
    pixels,
)
from sapag_fast.files.regular import regular_file
from sapag_fast.runtime.extras import needs

_HEADER, _COMPRESSED = 128, 15
_PIECE = 1 << 20
_CLASSES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "double", "single")


def read_svhn(
    path: str | Path,
    *,
    split: str | None = None,
    first: int = 0,
    count: int | None = None,
    classes: int | None = None,
) -> Images:
    """Colour images ``[N, 3, 32, 32]`` and labels 0..9 from a .mat file, or from the one in a folder.

    The file is compressed as a whole and read wholly. Numbers alone are read from it; nothing in it is run.

    Parameters
    ----------
    path : str or Path
    split : str, optional
        ``train``, ``test`` or ``extra``, where the folder holds several files.
    first, count
        Which images.
    classes : int, optional
        Labels must lie below it; None: below 10.

    Raises
    ------
    ValueError
        Naming the file, if it is missing or damaged, or does not hold X and y as above.
    """
    path = existing(path, "data set")
    if path.is_dir():
        files = of_split(sorted(path.glob("*.mat")), split, path)
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise DataError(f"{path}: expected one .mat file, found {names}; pass the file itself")
        path = files[0]
    X, y = _matrices(path)
    if X.dtype != np.uint8 or X.ndim != 4 or X.shape[2] != 3:
        raise DataError(f"{path}: X: expected uint8 [H, W, 3, N], found {X.dtype} {list(X.shape)}")
    if y.dtype.kind not in "iu" or y.size != max(y.shape):
        raise DataError(f"{path}: y: expected integers [N, 1], found {y.dtype} {list(y.shape)}")
    if y.size != X.shape[3]:
        raise DataError(f"{path}: {X.shape[3]} images in X, but {y.size} labels in y")
    chosen = chosen_slice(first, count, y.size, path)
    numbers = y.reshape(-1)[chosen].astype(np.int64)
    outside = (numbers < 1) | (numbers > 10)
    if outside.any():
        at = int(outside.argmax())
        raise DataError(f"{path}: label {numbers[at]} at position {chosen.start + at}; expected 1..10")
    labels = checked_labels(numbers % 10, classes, path, chosen.start)
    return pixels(X[..., chosen].transpose(3, 2, 0, 1), f"{path}: X"), labels


def _matrices(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with needs("data", "MATLAB files"):
        from scipy.io import loadmat, whosmat

    regular_file(path, "data set")
    with damage_named(path, "not a MATLAB file that can be read, or truncated"):
        try:
            _check_size(path)
            classes = {name: kind for name, _, kind in whosmat(path)}
            for name in ("X", "y"):  # no other class is read: cells in cells would overflow the stack
                if classes.get(name, "uint8") not in _CLASSES:
                    raise DataError(f"{path}: {name}: expected integers, found {classes[name]}")
            content = loadmat(path, variable_names=["X", "y"])
        except NotImplementedError:
            raise DataError(
                f"{path}: MATLAB 7.3 (HDF5) is not read; save it as version 7 or earlier"
            ) from None
    missing = [name for name in ("X", "y") if not isinstance(content.get(name), np.ndarray)]
    if missing:
        raise DataError(f"{path}: holds no matrix {' and '.join(missing)}; expected X and y")
    return content["X"], content["y"]


def _check_size(path: Path) -> None:
    """Raise `DataError` for a bomb: count what the file's compressed elements unpack to."""
    size, unpacked = path.stat().st_size, 0
    with path.open("rb") as file:
        header = file.read(_HEADER)
        order = "<" if header[-2:] == b"IM" else ">"
        while len(tag := file.read(8)) == 8:
            kind, length = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                file.seek(length, 1)
                continue
            stream = zlib.decompressobj()
            while length > 0 and (packed := file.read(min(length, _PIECE))):
                length -= len(packed)
                while packed:
                    unpacked += len(stream.decompress(packed, _PIECE))
                    check_unpacked(path, size, unpacked, held=5 * unpacked)
                    packed = stream.unconsumed_tail
