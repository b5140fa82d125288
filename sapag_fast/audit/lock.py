"""The lock of an audit's folder: an empty file of its own, that nothing is ever written to."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from sapag_fast.files.regular import regular_file, shown

__all__ = ["check_lock", "is_lock", "locked"]


def check_lock(path: Path) -> None:
    """Raise ValueError for a link, a pipe and whatever else is there and is no regular file."""
    if path.is_symlink():
        raise ValueError(f"lock of an audit {shown(path)}: is a link; expected a regular file")
    if path.exists():
        regular_file(path, "lock of an audit")


def is_lock(path: Path) -> bool:
    """Whether it may be a lock that an audit has left."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size == 0


def locked(path: Path) -> IO[str]:
    """Open and lock the file; closing it unlocks it. What is in it stays.

    Raises
    ------
    ValueError
        Where another process has locked it, and for a link and whatever else is no regular file.
    """
    check_lock(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # no truncation
    try:
        opened = os.fdopen(os.open(path, flags, 0o666), "r+")
    except OSError as error:
        raise ValueError(f"lock of an audit {shown(path)}: cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        opened.close()
        raise ValueError(f"output folder {shown(path.parent)}: another audit is at work in it") from None
    return opened
