"""What a contender is told and what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from benchmarks.peers.victims import Victims
from benchmarks.peers.watch import Watch

__all__ = ["Contender", "Found", "label_of"]


@dataclass(frozen=True)
class Found:
    """One victim's recovery: ``image [C, H, W]`` and the evaluations spent on it."""

    image: Tensor
    evaluations: int


class Contender(Protocol):
    """One tool, or one way to run it.

    ``budgets``: evaluations a victim that it is tried with, its own published number among them; its own
    stop may end it sooner. ``at_once``: victims that it searches at once in one process. ``channels``: of
    the images that it takes.
    """

    name: str
    budgets: tuple[int, ...]
    at_once: int
    channels: tuple[int, ...]

    def run(
        self, victims: Victims, chosen: Sequence[int], budget: int, watches: Sequence[Watch] = ()
    ) -> list[Found]:
        """Recover the chosen victims and tell `watches`, one for each of them or none, of the evaluations."""


def label_of(gradient: Sequence[Tensor]) -> Tensor:
    """iDLG's label ``[1]``: where the last bias's gradient is negative."""
    return gradient[-1].argmin().view(1)
