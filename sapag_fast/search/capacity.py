"""What the first few searches tell: how all are matched, and how many fit into memory at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sapag_fast.matching.choose import Choice, choose_isolated, choose_matching
from sapag_fast.matching.isolated import IsolatedMatching, Quantum
from sapag_fast.runtime.memory import free_bytes, peak_bytes, rows_that_fit
from sapag_fast.search.optimizers.of_recipe import make_optimizer
from sapag_fast.search.recipe import Recipe
from sapag_fast.search.run import Search
from sapag_fast.victim.problem import Problem

__all__ = ["first_matching", "kept_bytes", "searches_at_once"]

_OVERHEAD = 600  # bytes of a task's generator and of its place in the queue
_MEASURED = (2, 6)  # searches in the two steps by which memory is planned


def kept_bytes(shape: Sequence[int], recipe: Recipe, dtype: torch.dtype, *, joint_classes: int = 0) -> int:
    """Count what one task keeps from beginning to end, by arithmetic alone.

    Parameters
    ----------
    shape : sequence of int
        ``[B, *input_shape]``.
    recipe : Recipe
    dtype : torch.dtype
    joint_classes : int
        The logits of an input, where labels are searched too.
    """
    variables = math.prod(shape) + shape[0] * joint_classes
    return _OVERHEAD + variables * (8 + 3 * dtype.itemsize) + recipe.steps * dtype.itemsize


def first_matching(
    problem: Problem, starts: Tensor, labels: Tensor, recipe: Recipe, *, isolated: bool = False
) -> Choice:
    """Choose the way to match all searches, tried on the first few.

    It is chosen for all `starts` ``[T, B, *input_shape]``, however many run at once: a stopped run goes on
    with the same bits. With `isolated` it is chosen for each victim on its own.
    """
    few = min(starts.shape[0], max(_MEASURED))
    first = (problem, starts[:few], labels[:few], problem.rows()[:few])
    sharpness = _first_sharpness(recipe, few, starts.device)
    if isolated:
        return choose_isolated(*first, sharpness=sharpness)
    return choose_matching(*first, recoveries=starts.shape[0], sharpness=sharpness)


def _first_sharpness(recipe: Recipe, rows: int, device: torch.device) -> Tensor | None:
    """``[rows]`` at the first evaluation, where searches go through a surrogate."""
    if recipe.surrogate is None:
        return None
    return recipe.surrogate.sharpness(torch.zeros(rows, device=device), recipe.steps)


def searches_at_once(search: Search, victims: Tensor, max_memory: int | None) -> int:
    """Count the tasks that fit into memory at once.

    Parameters
    ----------
    search : Search
    victims : Tensor
        ``[T]``, int64, the victim of each task.
    max_memory : int or None
        Bytes; None: what is free.

    Returns
    -------
    int
        A power of two where they do not all fit, so that a little more or less free memory leaves the bits of
        the results alone.
    """
    starts, labels, recipe = search.starts, search.labels, search.recipe
    tasks, device = starts.shape[0], starts.device
    if tasks <= max(_MEASURED):
        return tasks
    fitting = search.matching.quantum if isinstance(search.matching, IsolatedMatching) else Quantum()
    few = fitting.of(_MEASURED[0])
    many = fitting.of(max(_MEASURED[1], few + 1))
    sharpness = _first_sharpness(recipe, many, device)

    def step(rows: int) -> int:
        tried = torch.arange(rows) % tasks
        search.matching.retarget(victims[tried])
        given = (starts[tried], labels[tried], None if sharpness is None else sharpness[:rows])
        return peak_bytes(lambda: search.matching.value_and_gradient(*given), device)

    step(few)  # what is set up once is none of a step's
    measured = {rows: step(rows) for rows in (few, many)}
    variables = starts[0].numel() + (labels[0].numel() if search.joint else 0)
    kept = make_optimizer(recipe, 1, variables, starts).state().values()
    row_bytes = sum(t.nbytes for t in kept) + (4 * variables + recipe.steps) * starts.element_size()
    budget = free_bytes(device) if max_memory is None else max_memory
    rows = rows_that_fit(measured, row_bytes, budget)
    return tasks if rows >= tasks else 2 ** (rows.bit_length() - 1)
