"""A cell of the claims: one setting, all its victims, one result file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Cell"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    A group's module offers ``cells(data: Path, quick: bool) -> list[Cell]``. Making cells must be cheap: all
    work, reading data included, belongs into `run`.

    Attributes
    ----------
    name : str
        Unique, and safe as a file's name.
    group : str
        The table that it belongs to.
    settings : dict
        What decides the result, as JSON values: a cell whose result was made with equal settings is not run
        again.
    run : callable
        Does the work and returns JSON values: ``victims``, a list with one dict for each (``success`` bool,
        ``evaluations`` int, metrics), and whatever else holds for the cell.
    """

    name: str
    group: str
    settings: dict[str, object]
    run: Callable[[], dict[str, object]]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name: expected letters, digits and . _ + -, found {self.name!r}")
