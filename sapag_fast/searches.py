"""How many searches run at once: as many as fit into memory, by a small step that is measured."""

from __future__ import annotations

from torch import Tensor

from sapag_fast.attack import make_optimizer
from sapag_fast.matching import Matching
from sapag_fast.memory import free_bytes, peak_bytes, rows_that_fit
from sapag_fast.recipes import Recipe

__all__ = ["MEASURED", "searches_at_once"]

MEASURED = (2, 6)
"""Searches in the two steps that are measured."""


def searches_at_once(
    matching: Matching,
    starts: Tensor,
    labels: Tensor,
    victims: Tensor,
    sharpness: Tensor | None,
    recipe: Recipe,
    variables: int,
    max_memory: int | None,
) -> int:
    """Tasks that fit into memory at once: a power of two where they do not all fit, so that a little more or
    less free memory leaves the bits of the results alone."""
    tasks, device = starts.shape[0], starts.device
    if tasks <= max(MEASURED):
        return tasks

    def step(rows: int) -> int:
        matching.retarget(victims[:rows])
        sharp = None if sharpness is None else sharpness[:rows]
        return peak_bytes(lambda: matching.value_and_gradient(starts[:rows], labels[:rows], sharp), device)

    step(MEASURED[0])  # what is set up once is none of a step's
    measured = {rows: step(rows) for rows in MEASURED}
    kept = make_optimizer(recipe, recipe.steps, 1, variables, starts).state().values()
    row_bytes = sum(t.nbytes for t in kept) + (4 * variables + recipe.steps) * starts.element_size()
    budget = free_bytes(device) if max_memory is None else max_memory
    rows = rows_that_fit(measured, row_bytes, budget)
    return tasks if rows >= tasks else 2 ** (rows.bit_length() - 1)
