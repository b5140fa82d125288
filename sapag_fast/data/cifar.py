"""The binary version of CIFAR-10 and CIFAR-100 (Krizhevsky 2009).

A file is a sequence of records: one byte with the label (CIFAR-100: two, coarse and fine) and 3072 bytes of a
3 × 32 × 32 image, red, green, blue.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sapag_fast.data.conventions import Images, checked_labels, chosen_slice, existing, of_split, pixels

PIXELS = 3 * 32 * 32
LABEL_BYTES = {"cifar10": 1, "cifar100": 2}
CLASSES = {("cifar10", "fine"): 10, ("cifar100", "fine"): 100, ("cifar100", "coarse"): 20}


def read_cifar(
    path: str | Path,
    kind: str | None = None,
    *,
    labels: str = "fine",
    split: str | None = None,
    first: int = 0,
    count: int | None = None,
    classes: int | None = None,
) -> Images:
    """Read colour images ``[N, 3, 32, 32]`` and labels from a .bin file or a folder of them.

    The files of a folder come in the order of their names. No more than the slice is read.

    Parameters
    ----------
    path : str or Path
    kind : str, optional
        ``cifar10`` or ``cifar100``; None: by the files' sizes and names.
    labels : str
        CIFAR-100's ``fine`` (0..99) or ``coarse`` (0..19).
    split : str, optional
        ``train`` or ``test``, where the folder holds both.
    first, count
        Which images, counted over all files.
    classes : int, optional
        Labels must lie below it; None: below the data set's number of classes.

    Raises
    ------
    ValueError
        Naming the file, if it is missing, holds no whole number of records, or a label out of range.
    """
    path = existing(path, "data set")
    files = of_split(bin_files(path), split, path) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: holds no .bin file; the version of CIFAR in Python's pickles is not read")
    kinds = {cifar_kind(file) for file in files} if kind is None else {kind}
    if len(kinds) > 1:
        raise ValueError(f"{path}: holds files of both CIFAR-10 and CIFAR-100; pass one file")
    found = kinds.pop()
    if (found, labels) not in CLASSES:
        options = "; ".join(f"kind={k!r}, labels={name!r}" for k, name in CLASSES)
        raise ValueError(f"kind, labels: expected one of {options}, found kind={found!r}, labels={labels!r}")
    record = LABEL_BYTES[found] + PIXELS
    counts = [_records(file, record) for file in files]
    chosen = chosen_slice(first, count, sum(counts), path)
    limit = CLASSES[found, labels] if classes is None else classes
    images, numbers, begin = [], [], 0
    for file, held in zip(files, counts, strict=True):
        low, high = max(chosen.start - begin, 0), min(chosen.stop - begin, held)
        begin += held
        if low >= high:
            continue
        rows = np.fromfile(file, np.uint8, (high - low) * record, offset=low * record).reshape(-1, record)
        column = LABEL_BYTES[found] - 1 if labels == "fine" else 0
        numbers.append(checked_labels(rows[:, column], limit, file, low))
        images.append(pixels(rows[:, -PIXELS:].reshape(-1, 3, 32, 32), str(file)))
    return torch.cat(images), torch.cat(numbers)


def cifar_kind(file: Path) -> str:
    """``cifar10`` or ``cifar100``, by the size of the file and, where that fits both, its name.

    Raises ValueError where the size fits neither.
    """
    size = file.stat().st_size
    fits = [kind for kind, labels in LABEL_BYTES.items() if size and size % (labels + PIXELS) == 0]
    if not fits:
        raise ValueError(
            f"{file}: {size} bytes, truncated or no CIFAR file; expected a multiple of {PIXELS + 1} "
            f"(CIFAR-10) or {PIXELS + 2} (CIFAR-100)"
        )
    if len(fits) == 1:
        return fits[0]
    return "cifar100" if file.name in ("train.bin", "test.bin") else "cifar10"


def bin_files(folder: Path) -> list[Path]:
    """The .bin files in a folder, by name."""
    return sorted(file for file in folder.glob("*.bin") if file.is_file())


def _records(file: Path, record: int) -> int:
    size = file.stat().st_size
    if size % record or not size:
        raise ValueError(
            f"{file}: {size} bytes, truncated or of another kind; expected a multiple of {record}"
        )
    return size // record
