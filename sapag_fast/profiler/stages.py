"""The stages of an attack's step: while a step is watched, the attack tells when each begins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sapag_fast.matching.base import FIRST_BACKWARD, FORWARD, REST, SECOND_BACKWARD, SUMS
from sapag_fast.profiler.timeline import Switch
from sapag_fast.search.batch import OPTIMISER, Batch

__all__ = [
    "FIRST_BACKWARD",
    "FORWARD",
    "OPTIMISER",
    "REST",
    "SECOND_BACKWARD",
    "STAGES",
    "SUMS",
    "watched_step",
    "watching",
]

STAGES = (FORWARD, FIRST_BACKWARD, SUMS, SECOND_BACKWARD, OPTIMISER, REST)
"""In the order of a step. The rest is the basis, the penalties and the book-keeping of best iterates."""


@contextlib.contextmanager
def watching(batch: Batch, to: Switch) -> Iterator[None]:
    """`to` is told whenever a stage of the batch's steps begins, within `watched_step`."""
    matching = batch.objective.matching
    before = matching.stages, batch.stages
    matching.stages = batch.stages = to.switch
    try:
        yield
    finally:
        matching.stages, batch.stages = before


def watched_step(batch: Batch, to: Switch) -> None:
    """One step between the beginning and the end of the account."""
    to.switch(REST)
    batch.step()
    to.switch(None)
