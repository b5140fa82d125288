"""File names and table cells for what somebody else has named."""

from __future__ import annotations

import csv
import hashlib
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sapag_fast.files.regular import spelled_out

__all__ = ["FileNames", "csv_table"]

_LONGEST = 200
"""Bytes of a file name before its ending: room for a temporary file's, and for a picture's number."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # full width, too


class FileNames:
    """Gives every name a file name of its own, also where a file system takes capitals for small letters.

    The first to ask has its plain one; a later one that would share it gets twelve digits of its name's
    SHA-256 behind it.

    Parameters
    ----------
    reserved : iterable of str
        File names that are in use already.
    """

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._taken = {_folded(name) for name in reserved}
        self._stems: dict[str, str] = {}

    def stem(self, name: str, plain: str, endings: Sequence[str] = ("",)) -> str:
        """Give the file name without its ending, the same one at each call.

        Parameters
        ----------
        name : str
            What the file is for; different for different things.
        plain : str
            As which it begins, if no other file is called so.
        endings : sequence of str
            All that will be appended.
        """
        if name in self._stems:
            return self._stems[name]
        digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        stem = plain
        if len(plain.encode("utf-8", "surrogatepass")) > _LONGEST:
            stem = f"{plain[: _LONGEST // 8]}%%{digits}"
        length = 12
        while any(_folded(stem + ending) in self._taken for ending in endings):
            stem, length = f"{plain[: _LONGEST // 8]}%%{digits[:length]}", length + 4
        self._taken.update(_folded(stem + ending) for ending in endings)
        self._stems[name] = stem
        return stem


def csv_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    r"""Write rows as CSV with a header, a line each; what is missing in a row is empty.

    Text that a spreadsheet would take for a formula gets an apostrophe in front, and what a terminal would
    obey or hide becomes an escape such as ``\x1b``; numbers stay numbers.
    """
    sink = io.StringIO()
    writer = csv.DictWriter(sink, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _inert(value) for key, value in row.items()})
    return sink.getvalue()


def _inert(value: object) -> object:
    if not isinstance(value, str):
        return value
    formula = value.startswith(_FORMULA) or value.lstrip().startswith(_FORMULA)
    return "'" * formula + spelled_out(value)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
