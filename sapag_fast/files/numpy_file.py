"""NumPy archives (.npz) of tensors: what `numpy.savez` wrote, of a list of arrays or by name.

No Python object in one is read, and no more memory is taken than the file has bytes.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from sapag_fast.files.archive import check_stored
from sapag_fast.files.torch_pickle import RefusedError

__all__ = ["read_numpy_file"]

_LONGEST_HEADER = 1 << 14
_HEADERS: dict[tuple[int, int], Callable] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_numpy_file(path: Path) -> dict[str, Tensor] | list[Tensor]:
    """Read all arrays, by name; of an archive of a list of arrays, the list.

    Raises
    ------
    RefusedError
        For contents that are not read; the message goes on "holds ...".
    Exception
        Anything, for a damaged file.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        size, records = os.fstat(file.fileno()).st_size, archive.infolist()
        if len({record.filename for record in records}) < len(records):
            raise RefusedError("arrays of the same name")
        check_stored(records, size, "arrays", "; save them anew with numpy.savez")
        if strange := [r.filename for r in records if not r.filename.endswith(".npy")]:
            raise RefusedError(f"{strange[0][:40]!r}, which is no array")
        arrays: dict[str, Tensor] = {}
        for record in records:
            name = record.filename.removesuffix(".npy")
            with archive.open(record) as content:
                arrays[name] = _array(name, content, record.file_size)
    positions = [f"arr_{position}" for position in range(len(arrays))]
    return [arrays[name] for name in positions] if arrays.keys() == set(positions) else arrays


def _array(name: str, file: IO[bytes], size: int) -> Tensor:
    """One array of so many bytes, its header among them."""
    begin = io.BytesIO(file.read(min(size, _LONGEST_HEADER)))
    version = np.lib.format.read_magic(begin)
    if version not in _HEADERS:
        raise RefusedError(f"an array {name[:40]!r} in version {version} of the format")
    shape, fortran, dtype = _HEADERS[version](begin)  # a literal, which numpy evaluates
    if dtype.kind not in "fiub":
        raise RefusedError(f"an array {name[:40]!r} of {dtype} (Python objects are not read)")
    count, left = math.prod(shape), size - begin.tell()
    if count * dtype.itemsize != left:
        raise RefusedError(
            f"an array {name[:40]!r} of {left} bytes that should have {count * dtype.itemsize}"
        )
    numbers = bytearray(begin.read())
    numbers += file.read(left - len(numbers))
    if len(numbers) != left:
        raise EOFError(f"{left} bytes expected, {len(numbers)} found")
    array = np.frombuffer(numbers, dtype).reshape(shape, order="F" if fortran else "C")
    try:
        return torch.from_numpy(np.array(array, dtype=dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise RefusedError(f"an array {name[:40]!r} of {dtype}, which torch does not have") from None
