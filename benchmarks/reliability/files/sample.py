"""A file that is to be read, and what is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Check = Callable[[Any], str | None]


@dataclass
class Sample:
    """Valid when it is made; one of its files is damaged then."""

    path: Path
    """The file to damage."""
    read: Callable[[], Any]
    right: Check
    """What is wrong with the value of an intact file, if anything."""
    sane: Check = lambda value: None
    """What is wrong with the value of any file that is read."""
    refusable: bool = False
    """Whether the reader may refuse the file as it is: a special one, or of a sort that it need not know."""
    words: str = ""
    says: str = "hostile-"
    """What an error has to say, to name the file."""


Make = Callable[[np.random.Generator, Path], Sample]


def same(found: np.ndarray, exact: np.ndarray, slack: float = 0.0) -> str | None:
    """What is wrong with an array."""
    if found.shape != exact.shape:
        return f"shape {found.shape}, expected {exact.shape}"
    apart = np.abs(found.astype(np.float64) - exact.astype(np.float64)).max(initial=0)
    return None if apart <= slack else f"values {apart:.3g} apart"
