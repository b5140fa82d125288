"""Regular files: whatever else a path may name could block its reader, or never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["regular_file", "shown", "spelled_out"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FAULTS = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.ELOOP: "is a link that leads back to itself",
}


def regular_file(path: str | Path, what: str) -> Path:
    """Return the path of a regular file, or of a link to one; nothing is opened.

    Parameters
    ----------
    path : str or Path
    what : str
        Names the file in messages.

    Raises
    ------
    TypeError
        For what is neither a string nor a path.
    ValueError
        Where there is none, and for a folder, a pipe, a socket, a device and a link without an end.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"path must be a string or a Path, found {type(path).__name__}")
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        fault = _FAULTS.get(error.errno or 0) or f"cannot be read: {error.strerror}"
        raise ValueError(f"{what} {shown(path)}: {fault}") from None
    except ValueError as error:  # a null byte in the name
        raise ValueError(f"{what} {str(path)!r}: cannot be a path: {error}") from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise ValueError(f"{what} {shown(path)}: is {kind}; expected a regular file")
    return path


def shown(path: str | Path) -> str:
    """The path in characters that every screen and file can hold: others are spelled out."""
    return spelled_out(os.fsencode(path).decode("utf-8", "backslashreplace"))


def spelled_out(text: str) -> str:
    r"""The text with escapes such as ``\x1b`` for what a terminal would obey or hide."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
