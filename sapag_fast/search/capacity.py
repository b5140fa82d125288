"""What the first few searches tell: how all are matched, and how many fit into memory at once."""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.matching.base import Matching
from sapag_fast.matching.choose import choose_matching
from sapag_fast.runtime.memory import free_bytes, peak_bytes, rows_that_fit
from sapag_fast.search.loop import make_optimizer
from sapag_fast.search.recipe import Recipe
from sapag_fast.victim.problem import Problem

__all__ = ["first_matching", "searches_at_once"]

_MEASURED = (2, 6)  # searches in the two steps by which memory is planned


def first_matching(
    problem: Problem, starts: Tensor, labels: Tensor, recipe: Recipe
) -> tuple[Matching, Tensor | None]:
    """The way to match all searches, tried on the first few, and the sharpness of these (``[few]``) where
    they go through a surrogate.

    It is chosen for all `starts` ``[T, B, *input_shape]``, however many run at once: a stopped run goes on
    with the same bits.
    """
    few, sharpness = min(starts.shape[0], max(_MEASURED)), None
    if recipe.surrogate is not None:
        sharpness = recipe.surrogate.sharpness(torch.zeros(few, device=starts.device), recipe.steps)
    matching = choose_matching(
        problem,
        starts[:few],
        labels[:few],
        problem.rows()[:few],
        recoveries=starts.shape[0],
        sharpness=sharpness,
    )
    return matching, sharpness


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
    if tasks <= max(_MEASURED):
        return tasks

    def step(rows: int) -> int:
        matching.retarget(victims[:rows])
        sharp = None if sharpness is None else sharpness[:rows]
        return peak_bytes(lambda: matching.value_and_gradient(starts[:rows], labels[:rows], sharp), device)

    step(_MEASURED[0])  # what is set up once is none of a step's
    measured = {rows: step(rows) for rows in _MEASURED}
    kept = make_optimizer(recipe, recipe.steps, 1, variables, starts).state().values()
    row_bytes = sum(t.nbytes for t in kept) + (4 * variables + recipe.steps) * starts.element_size()
    budget = free_bytes(device) if max_memory is None else max_memory
    rows = rows_that_fit(measured, row_bytes, budget)
    return tasks if rows >= tasks else 2 ** (rows.bit_length() - 1)
