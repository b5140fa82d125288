"""Output folders, files that are written whole, JSON and the versions that results carry."""

from __future__ import annotations

import errno
import math
import os
import platform
import re
import tempfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sapag_fast._version import __version__

__all__ = [
    "WriteError",
    "check_new_file",
    "check_output",
    "finite_json",
    "leftovers",
    "replacing",
    "sweep",
    "versions",
]

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.part", re.DOTALL)
"""What `replacing` calls its temporary files."""

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}
"""A file system that cannot sync a folder says one of these."""


class WriteError(ValueError):
    """A file cannot be written: no fault of what was to be in it."""


@contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path in the same folder; it becomes ``path`` if the block ends well.

    It vanishes if the block does not. A process that is killed leaves it behind (see `sweep`).

    Parameters
    ----------
    path : str or Path
    durable : bool
        Have the file and its folder reach the disk, so that a power failure leaves the old content or the
        new: two ``fsync``. Without, the file may be empty then; for what can be made again.
    """
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp gives 0600, an ordinary file follows the umask
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        try:
            _sync(path.parent)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise


def leftovers(folder: Path, names: Container[str]) -> Iterator[Path]:
    """Files that killed writes of the files of these names have left in the folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        found = _TEMPORARY.fullmatch(path.name)
        if found is not None and found["name"] in names and path.is_file() and not path.is_symlink():
            yield path


def sweep(folder: Path, names: Container[str]) -> None:
    """Remove what killed writes of the files of these names have left in the folder."""
    for path in leftovers(folder, names):
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(folder: Path, overwrite: bool) -> None:
    """Raise ValueError unless the folder can be written to and, without ``overwrite``, is absent or empty."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"output folder {folder}: {there} is a file")
    try:
        with tempfile.TemporaryFile(
            dir=there
        ):  # permissions do not tell: some file systems take no files at all
            pass
    except OSError as error:
        raise ValueError(f"output folder {folder}: {there} cannot be written to: {error.strerror}") from None
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise ValueError(f"output folder {folder}: holds files already; name another one or pass --overwrite")


def check_new_file(path: Path, overwrite: bool) -> None:
    """Raise ValueError unless the path is a .safetensors file that can be written now."""
    if path.suffix != ".safetensors":
        raise ValueError(f"file {path}: expected a name ending in .safetensors")
    if path.exists() and not overwrite:
        raise ValueError(f"file {path}: exists already; name another one or pass --overwrite")
    if not path.parent.is_dir():
        raise ValueError(f"file {path}: folder {path.parent} does not exist")


def versions(device: torch.device) -> dict[str, str | int]:
    """Versions and the device by name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "sapag_fast": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "device": str(device),
        "device_name": name,
    }


def finite_json(value: Any) -> Any:
    """The value as JSON takes it: no nan, no infinity, no objects, no half characters of file names."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {finite_json(str(key)): finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    if isinstance(value, int | bool) or value is None:
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()
