"""Checks of paths against each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["check_separate"]


def check_separate(outputs: Mapping[str, Path | None], inputs: Mapping[str, Iterable[Path]]) -> None:
    """Refuse a path that is written twice, or written to and read.

    Links are followed. An input may lie beside outputs, but not in an output folder.

    Parameters
    ----------
    outputs : mapping of str to (Path or None)
        What is written, by the option that names it: a file, or a folder with all that will be in it.
    inputs : mapping of str to iterable of Path
        What is read.

    Raises
    ------
    ValueError
        Naming both options and the path.
    """
    written = [(name, path) for name, path in outputs.items() if path is not None]
    for at, (name, path) in enumerate(written):
        for other, second in written[at + 1 :]:
            if _is_in(path, second) or _is_in(second, path):
                raise ValueError(f"{name}, {other}: expected two places to write to, found one, {path}")
        for other, paths in inputs.items():
            for read in paths:
                if _is_in(read, path):
                    raise ValueError(f"{name}: {path} would be written over what {other} reads, {read}")


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a path is the folder, or lies in it."""
    own, other = os.path.realpath(path), os.path.realpath(folder)
    return own == other or own.startswith(other.rstrip(os.sep) + os.sep) or _same(path, folder)


def _same(path: Path, other: Path) -> bool:
    """Whether two names, such as hard links, stand for one file."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
