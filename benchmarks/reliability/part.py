"""What a part of the suite is: numbered cases, each drawn anew from (seed, number) alone."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np


@dataclass
class Outcome:
    """What one case showed: how often what was tried, and what went wrong, a line each."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Part(Protocol):
    """Cases of one sort. `check` runs in a process of its own, which may die of a case."""

    name: str
    title: str
    amount: int
    """Cases of the long run."""
    block: int
    """Cases that one process takes one after the other."""
    patience: float
    """Seconds without an end of a case after which it counts as hanging."""
    environment: Mapping[str, str]
    sources: Sequence[str]
    """Paths below the repository's root on which its figures depend."""

    def check(self, seed: int, number: int) -> Outcome: ...

    def show(self, seed: int, number: int) -> str:
        """The case in words, to be run again by hand."""
        ...


@contextmanager
def scratch_folder(part: str) -> Iterator[Path]:
    """A folder for one case's files, which goes with all that can be removed of it."""
    with TemporaryDirectory(prefix=f"{part}-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def generator(part: str, seed: int, number: int) -> np.random.Generator:
    """The one source of chance of a case."""
    return np.random.default_rng([zlib.crc32(part.encode()), seed, number])
