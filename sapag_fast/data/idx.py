"""MNIST's IDX format (LeCun, Cortes, Burges 1998), plain or gzipped: MNIST, Fashion-MNIST, KMNIST, EMNIST.

A file is four bytes (0, 0, the type of its numbers, the number of dimensions), the dimensions as big-endian
uint32, and the numbers.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np

from sapag_fast.data.conventions import (
    Images,
    check_unpacked,
    checked_labels,
    chosen_slice,
    existing,
    of_split,
    pixels,
    read_fully,
    skip,
)
from sapag_fast.files.regular import regular_file

GZIP_MAGIC = b"\x1f\x8b"
IDX_MAGIC = b"\x00\x00\x08"


def read_idx(path: str | Path, *, first: int = 0, count: int | None = None) -> np.ndarray:
    """An array of unsigned bytes in IDX format: its entries ``first``, ... along the leading dimension.

    A plain file is read from there; a gzipped one is decompressed up to there.

    Raises
    ------
    ValueError
        Naming the file, for another magic number, for contents that are shorter or (where read to the end)
        longer than the header says, and for a slice outside.
    """
    with _opened(regular_file(path, "IDX file")) as file:
        return _read(file, Path(path), first, count)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's contents, decompressed; what gzip finds wrong becomes a ValueError that names the file."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        try:
            if not zipped:
                yield raw
                return
            with gzip.GzipFile(fileobj=raw) as file:
                yield cast(IO[bytes], file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged or truncated gzip file: {error}") from None


def _header(file: IO[bytes], path: Path) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != IDX_MAGIC or magic[3] < 1:
        found = magic.hex(" ") or "an empty file"
        raise ValueError(f"{path}: not an IDX file of unsigned bytes: expected magic 00 00 08, found {found}")
    return tuple(int(size) for size in np.frombuffer(read_fully(file, 4 * magic[3], path), dtype=">u4"))


def _read(file: IO[bytes], path: Path, first: int, count: int | None) -> np.ndarray:
    shape = _header(file, path)
    chosen = chosen_slice(first, count, shape[0], path)
    entry = math.prod(shape[1:])
    size, wanted = path.stat().st_size, chosen.stop - chosen.start
    if not isinstance(file, gzip.GzipFile):
        follow, said = size - file.tell(), shape[0] * entry
        if follow != said:
            word = "truncated: " if follow < said else ""
            raise ValueError(
                f"{path}: {word}the header says {said} bytes ({_times(shape)}), but {follow} follow"
            )
    check_unpacked(path, size, shape[0] * entry, held=5 * wanted * entry)  # as bytes and as float32
    if isinstance(file, gzip.GzipFile):
        skip(file, chosen.start * entry, path)
    else:
        file.seek(chosen.start * entry, 1)
    content = read_fully(file, wanted * entry, path)
    if chosen.stop == shape[0] and file.read(1):
        raise ValueError(f"{path}: more bytes follow than the header says ({_times(shape)})")
    return np.frombuffer(content, dtype=np.uint8).reshape(wanted, *shape[1:])


def read_mnist(
    path: str | Path,
    labels: str | Path | None = None,
    *,
    split: str | None = None,
    first: int = 0,
    count: int | None = None,
    classes: int | None = None,
) -> Images:
    """Grey images and labels from a folder with IDX files, or from the two files.

    Parameters
    ----------
    path : str or Path
        A folder with ``*images*idx3*`` and the labels of the same name, or the file of images.
    labels : str or Path, optional
        The file of labels; None: ``images-idx3`` replaced by ``labels-idx1`` in the name of the images.
    split : str, optional
        ``train`` or ``test``, where the folder holds both.
    first, count
        Which images.
    classes : int, optional
        Labels must lie below it; None: any.

    Raises
    ------
    ValueError
        As `read_idx` does, for a missing file, and for images and labels of different number.
    """
    images = existing(path, "data set")
    if images.is_dir():
        if labels is not None:
            raise ValueError(f"{images}: labels= goes with the file of images, not with a folder")
        images = _only(of_split(image_idx_files(images), split, images), images)
    partner = _labels_of(images) if labels is None else regular_file(labels, "IDX file")
    shapes = [idx_shape(file) for file in (images, partner)]
    for file, shape, dimensions in zip((images, partner), shapes, (3, 1), strict=True):
        if len(shape) != dimensions or 0 in shape:
            what = "images [N, H, W]" if dimensions == 3 else "labels [N]"
            raise ValueError(f"{file}: expected {what}, found {_times(shape)}")
    if shapes[0][0] != shapes[1][0]:
        raise ValueError(f"{images}: {shapes[0][0]} images, but {shapes[1][0]} labels in {partner}")
    values = read_idx(images, first=first, count=count)
    numbers = read_idx(partner, first=first, count=count)
    return pixels(values, str(images))[:, None], checked_labels(numbers, classes, partner, first)


def idx_shape(path: str | Path) -> tuple[int, ...]:
    """The dimensions in the header of an IDX file. Raises ValueError, as `read_idx` does."""
    with _opened(regular_file(path, "IDX file")) as file:
        return _header(file, Path(path))


def image_idx_files(folder: Path) -> list[Path]:
    """The files of images in a folder, by name; a plain one goes before its gzipped copy."""
    files = sorted(file for file in folder.glob("*images*idx3*") if file.is_file())
    plain = {file.name for file in files}
    return [file for file in files if not (file.suffix == ".gz" and file.stem in plain)]


def _only(files: list[Path], folder: Path) -> Path:
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"{folder}: expected one file *images*idx3*, found {names}; pass the file itself")
    return files[0]


def _labels_of(images: Path) -> Path:
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    plain = name.removesuffix(".gz")
    for candidate in dict.fromkeys((name, plain, f"{plain}.gz")):
        if candidate != images.name and (images.parent / candidate).is_file():
            return images.parent / candidate
    raise ValueError(f"{images}: no labels beside it (expected {name}); pass labels=")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
