"""Zip archives of which no more memory is taken than the file has bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable

from sapag_fast.files.torch_pickle import RefusedError

__all__ = ["check_stored"]


def check_stored(records: Iterable[zipfile.ZipInfo], size: int, kind: str, compressed: str) -> None:
    """Refuse records that are compressed, or longer together than the file of `size` bytes.

    Parameters
    ----------
    records : iterable of zipfile.ZipInfo
    size : int
    kind : str
        What a message calls the records.
    compressed : str
        What it says of compressed ones.

    Raises
    ------
    RefusedError
        The message goes on "holds ...".
    """
    records = list(records)
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise RefusedError(f"compressed {kind}{compressed}")
    if sum(record.file_size for record in records) > size:
        raise RefusedError(f"{kind} of more than its {size} bytes")
