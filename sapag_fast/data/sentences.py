"""Sentences and labels from tab-separated files.

So come CoLA (Warstadt, Singh, Bowman 2019) and GLUE (Wang et al. 2019).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.files.regular import regular_file

Sentences = tuple[list[str], Tensor]

COLA = (3, 1)
"""Columns of sentence and label in CoLA's own files, which have no header: source, label, mark, sentence."""


def read_sentences(
    path: str | Path,
    sentence: int | str | None = None,
    label: int | str | None = None,
    *,
    first: int = 0,
    count: int | None = None,
    classes: int | None = None,
) -> Sentences:
    """Sentences, and their labels as int64 ``[N]``. Reads no further than the slice.

    Tabs alone separate; quotes are characters like others. The first line is a header if a column is given by
    name, or if ``sentence`` and ``label`` are among its cells.

    Parameters
    ----------
    path : str or Path
    sentence, label : int or str, optional
        The columns, by position from 0 (from the end if negative) or by their names in the header; None:
        ``sentence`` and ``label`` if there is a header, else as in CoLA's files.
    first, count
        Which sentences.
    classes : int, optional
        Labels must lie below it; None: any.

    Raises
    ------
    ValueError
        Naming the file and the line, for a missing column, a label that is not a whole number, an empty
        sentence, text that is not UTF-8, and a slice outside.
    """
    path = regular_file(path, "sentences")
    for name, value in (("first", first), ("count", 1 if count is None else count)):
        if isinstance(value, bool) or not isinstance(value, int) or value < (name == "count"):
            raise ValueError(
                f"{name} must be {'1 or more' if name == 'count' else '0 or more'}, found {value!r}"
            )
    for name, column in (("sentence", sentence), ("label", label)):
        if isinstance(column, bool) or not isinstance(column, int | str | None):
            raise TypeError(f"{name} must be a column's position or name, found {column!r}")
    if classes is not None:
        check.check_count("classes", classes)
    texts, numbers = [], []
    # Lines end with "\n" alone: other separators of lines may stand inside a sentence.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        rows = _rows(file, path)
        try:
            at, top = next(rows)
        except StopIteration:
            raise ValueError(f"{path}: is empty") from None
        named = isinstance(sentence, str) or isinstance(label, str) or {"sentence", "label"} <= set(top)
        if not named:
            rows = chain([(at, top)], rows)
        usual = ("sentence", "label") if named else COLA
        given = (usual[0] if sentence is None else sentence, usual[1] if label is None else label)
        columns = [
            (name, _column(name, column, top, path) if isinstance(column, str) else column)
            for name, column in zip(("sentence", "label"), given, strict=True)
        ]
        most = sys.maxsize  # that islice takes, and more than a file has lines
        last = None if count is None else min(first + count, most)
        for line, row in islice(rows, min(first, most), last):
            text, number = (_cell(row, *column, line, path) for column in columns)
            if not text.strip():
                raise ValueError(f"{path}, line {line}: the sentence is empty")
            texts.append(text.strip())
            numbers.append(_label(number, classes, line, path))
    if not texts or (count is not None and len(texts) < count):
        raise ValueError(f"{path}: first={first}, count={count}: only {len(texts)} sentences from there on")
    return texts, torch.tensor(numbers, dtype=torch.int64)


def _rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the cells of every line that is not empty."""
    line = 0
    try:
        for line, text in enumerate(file, 1):
            if text.strip("\r\n"):
                yield line, text.rstrip("\r\n").split("\t")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, after line {line}: not UTF-8 text: {error.reason}") from None


def _column(name: str, column: str, header: list[str], path: Path) -> int:
    if column not in header:
        found = ", ".join(header)[:200]
        raise ValueError(f"{path}: {name}: no column {column!r} in the header; found {found}")
    return header.index(column)


def _cell(row: list[str], name: str, column: int, line: int, path: Path) -> str:
    if not -len(row) <= column < len(row):
        raise ValueError(f"{path}, line {line}: {name}: {len(row)} columns, no column {column}")
    return row[column]


def _label(text: str, classes: int | None, line: int, path: Path) -> int:
    text = text.strip()
    if not (text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 25):
        raise ValueError(f"{path}, line {line}: expected a label that is a whole number, found {text[:40]!r}")
    if not 0 <= int(text) < (2**63 if classes is None else classes):
        expected = "0 or more" if classes is None else f"0..{classes - 1} (classes={classes})"
        raise ValueError(f"{path}, line {line}: label {text}; expected {expected}")
    return int(text)
