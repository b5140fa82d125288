"""One front door for the data sets of images on disk: `read_dataset` tells by the contents what they are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sapag_fast.data.arrays import read_arrays
from sapag_fast.data.cifar import bin_files, cifar_kind, read_cifar
from sapag_fast.data.class_folders import is_class_tree, read_class_folders
from sapag_fast.data.conventions import Images, existing
from sapag_fast.data.idx import GZIP_MAGIC, IDX_MAGIC, image_idx_files, read_mnist
from sapag_fast.data.picture_file import IMAGE_SUFFIXES
from sapag_fast.data.svhn import read_svhn

KINDS: dict[str, Callable[..., Images]] = {
    "mnist": read_mnist,
    "cifar10": functools.partial(read_cifar, kind="cifar10"),
    "cifar100": functools.partial(read_cifar, kind="cifar100"),
    "svhn": read_svhn,
    "folders": read_class_folders,
    "npz": read_arrays,
}
"""Readers by kind; ``mnist`` stands for everything in IDX format."""


def read_dataset(
    path: str | Path,
    kind: str | None = None,
    *,
    split: str | None = None,
    first: int = 0,
    count: int | None = None,
    classes: int | None = None,
    **options: Any,
) -> Images:
    """Images float32 ``[N, C, H, W]`` in [0, 1] and labels int64 ``[N]`` of a data set on disk.

    Parameters
    ----------
    path : str or Path
        A file, or a folder, as the data set comes.
    kind : str, optional
        One of `KINDS`; None: `recognise` tells.
    split : str, optional
        ``train``, ``test``, ``val`` or ``extra``; needed where `path` holds several.
    first, count
        Which images: ``count`` from ``first`` on, all of them if None.
    classes : int, optional
        Labels must lie below it.
    **options
        The reader's own, such as ``input_shape`` for folders, ``layout`` for .npz.

    Raises
    ------
    ValueError
        Naming the file, with what was expected and found.
    """
    path = existing(path, "data set")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, found {kind!r}")
    if split is not None:
        options["split"] = split
    return KINDS[kind or recognise(path)](path, first=first, count=count, classes=classes, **options)


def recognise(path: str | Path) -> str:
    """The kind of a data set, by the first bytes of a file or by what lies in a folder.

    Raises ValueError, with what was found, where it is none of `KINDS` or could be several.
    """
    path = existing(path, "data set")
    return _folder_kind(path) if path.is_dir() else _file_kind(path)


def _folder_kind(path: Path) -> str:
    found = []
    if image_idx_files(path):
        found.append("mnist")
    found += sorted({cifar_kind(file) for file in bin_files(path)})
    if any(path.glob("*.mat")):
        found.append("svhn")
    if is_class_tree(path):
        found.append("folders")
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"folder {path}: could be {' or '.join(found)}; pass kind= or one file")
    names = sorted(entry.name for entry in path.iterdir())
    held = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
    raise ValueError(
        f"folder {path}: no data set recognised; expected IDX files, CIFAR's .bin, SVHN's .mat or class "
        f"folders of images; found {held}"
    )


def _file_kind(path: Path) -> str:
    with path.open("rb") as file:
        begin = file.read(128)
    if begin[:2] == GZIP_MAGIC or begin[:3] == IDX_MAGIC:
        return "mnist"
    if begin[:4] == b"PK\x03\x04":
        return "npz"
    if begin[:6] == b"MATLAB" or path.suffix.lower() == ".mat":
        return "svhn"
    if path.suffix.lower() == ".bin":
        return cifar_kind(path)
    if path.suffix.lower() in (".tsv", ".csv", ".txt"):
        raise ValueError(f"{path}: text, not images; read_sentences reads it")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: one image, not a data set; read_images reads it")
    raise ValueError(
        f"{path}: no data set recognised; expected IDX, CIFAR's .bin, SVHN's .mat or .npz; found a file that "
        f"begins with {begin[:8].hex(' ') or 'nothing'}"
    )
