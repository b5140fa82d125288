"""Files of `torch.save`: today's zip archives, and the plain ones from before torch 1.6.

Nothing in them is unpickled (see `torch_pickle`), and no more memory is taken than the file has bytes: every
storage is compared with what the file holds before it is read.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from sapag_fast.files.archive import check_stored
from sapag_fast.files.torch_pickle import Described, RefusedError, Storage, read_pickle

__all__ = ["read_torch_file"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ANEW = "save its tensors anew with torch.save or safetensors, where the file comes from"
_PIECE = 1 << 24
_LONGEST_PICKLE = 1 << 24


def read_torch_file(path: Path) -> Any:
    """Read what `torch.save` wrote: dictionaries and lists of tensors, words and numbers.

    Raises
    ------
    RefusedError
        For contents that are not read; the message goes on "holds ...".
    Exception
        Anything, for a damaged file.
    """
    with path.open("rb") as file:
        begin, size = file.read(512), os.fstat(file.fileno()).st_size
        file.seek(0)
        if begin.startswith(b"PK"):
            return _from_archive(file, size)
        if begin[257:262] == b"ustar":
            raise RefusedError(f"torch's .tar format of 2017, which is not read; {_ANEW}")
        return _from_plain(file, size)


def _from_archive(file: IO[bytes], size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
        if len(records) < len(archive.infolist()):
            raise RefusedError("records of the same name")
        (folder,) = {name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl")}
        if f"{folder}constants.pkl" in records:
            raise RefusedError("a TorchScript program, which is not read; save its state_dict")
        check_stored(records.values(), size, "records", ", which torch.save does not write")
        order = records.get(f"{folder}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise RefusedError("numbers in big-endian order")
        if records[f"{folder}data.pkl"].file_size > _LONGEST_PICKLE:
            raise RefusedError(f"a pickle of more than {_LONGEST_PICKLE} bytes")
        content = read_pickle(io.BytesIO(archive.read(f"{folder}data.pkl")))
        found: dict[str, Tensor] = {}
        for storage in _storages(content):
            record = records[f"{folder}data/{storage.key}"]
            if record.file_size != storage.nbytes:
                raise RefusedError(f"a storage of {record.file_size} bytes that should have {storage.nbytes}")
            with archive.open(record) as numbers:
                found[storage.key] = _read(numbers, storage.nbytes)
    return _filled(content, found)


def _from_plain(file: IO[bytes], size: int) -> Any:
    if read_pickle(file) != _MAGIC or read_pickle(file) != _PROTOCOL:
        raise RefusedError(f"something else than torch.save writes; {_ANEW}")
    if read_pickle(file).get("little_endian") is not True:
        raise RefusedError("numbers in big-endian order")
    content, keys = read_pickle(file), read_pickle(file)
    storages = {storage.key: storage for storage in _storages(content)}
    if not storages:
        return content
    if sorted(keys) != sorted(storages):
        raise RefusedError("storages that do not belong to its tensors")
    found: dict[str, Tensor] = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        if count != storages[key].count or storages[key].nbytes > size - file.tell():
            raise RefusedError(f"a storage of {count} numbers that should have {storages[key].count}")
        found[key] = _read(file, storages[key].nbytes)
    return _filled(content, found)


def _storages(content: Any) -> list[Storage]:
    """Each storage once, in order; none where the file holds anything beside tensors."""
    parts = (
        content.values()
        if isinstance(content, dict)
        else content
        if isinstance(content, list | tuple)
        else ()
    )
    storages: dict[str, Storage] = {}
    for part in parts:
        if not isinstance(part, Described):
            return []
        if storages.setdefault(part.storage.key, part.storage).nbytes != part.storage.nbytes:
            raise RefusedError("one storage of two sizes")
    return list(storages.values())


def _read(file: IO[bytes], size: int) -> Tensor:
    """The next bytes, in memory as torch aligns it."""
    numbers = torch.empty(size, dtype=torch.uint8)
    view, at = numbers.numpy().data, 0
    while at < size:
        piece = file.read(min(_PIECE, size - at))
        if not piece:
            raise EOFError(f"{size} bytes expected, {at} found")
        view[at : at + len(piece)] = piece
        at += len(piece)
    return numbers


def _filled(content: Any, found: dict[str, Tensor]) -> Any:
    """Tensors in the place of what describes them, where their storages have been read."""

    def tensor(part: Described) -> Tensor:
        return found[part.storage.key].view(part.dtype).as_strided(part.shape, part.stride, part.offset)

    if not found:
        return content
    if isinstance(content, dict):
        return {name: tensor(part) for name, part in content.items()}
    return [tensor(part) for part in content]
