"""What the first few searches tell: how all are matched, and how many fit into memory at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.matching.choose import Choice, choose_isolated, choose_matching
from sapag_fast.matching.isolated import IsolatedMatching, Quantum
from sapag_fast.runtime.memory import MOST_UNQUESTIONED, SHARE, free_bytes, peak_bytes, rows_that_fit
from sapag_fast.search.optimizers.of_recipe import make_optimizer
from sapag_fast.search.recipe import Recipe
from sapag_fast.search.run import Search
from sapag_fast.victim.problem import Problem

__all__ = ["APART", "Memory", "first_matching", "kept_bytes", "searches_at_once"]

_OVERHEAD = 600  # bytes of a task's generator and of its place in the queue
_MEASURED = (2, 6)  # searches in the two steps by which memory is planned
_MEASURED_OF_LARGE = (1, 2)

APART = 1 << 24
"""Bytes that a forward pass of one search gives on a CPU, from which on searches that leave no trace in one
another are evaluated one by one: ResNet-18 at 224x224 gives 22 million, at 32x32 8 million."""


@dataclass(frozen=True)
class Memory:
    """What there is for the searches, and what one may take at most.

    Attributes
    ----------
    budget : int
        Bytes for all searches at once.
    each : int
        Bytes of one search, by a generous estimate.
    """

    budget: int
    each: int

    @classmethod
    def of(cls, device: torch.device, max_memory: int | None, each: int) -> Memory:
        """``max_memory`` bytes, or what is free on the device."""
        return cls(free_bytes(device) if max_memory is None else max_memory, each)

    def bears(self, searches: int) -> bool:
        """Whether so many fit without any doubt; small ones are not questioned."""
        return searches * self.each <= max(SHARE * self.budget, MOST_UNQUESTIONED)

    @property
    def measured(self) -> tuple[int, int]:
        """Searches in the two steps by which memory is planned: large ones are few, not to burst it."""
        return _MEASURED if self.bears(max(_MEASURED)) else _MEASURED_OF_LARGE


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
    problem: Problem,
    starts: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    isolated: bool = False,
    apart: bool = False,
    memory: Memory | None = None,
) -> Choice:
    """Choose the way to match all searches, tried on the first few: no more than `memory` bears, or two.

    It is chosen for all `starts` ``[T, B, *input_shape]``, however many run at once: a stopped run goes on
    with the same bits. With `isolated` it is chosen for each victim on its own, with `apart` for each row.
    """
    few = min(starts.shape[0], max(_MEASURED if memory is None else memory.measured))
    first = (problem, starts[:few], labels[:few], problem.rows()[:few])
    sharpness = _first_sharpness(recipe, few, starts.device)
    if isolated:
        return choose_isolated(*first, sharpness=sharpness, apart=apart)
    return choose_matching(*first, recoveries=starts.shape[0], sharpness=sharpness)


def _first_sharpness(recipe: Recipe, rows: int, device: torch.device) -> Tensor | None:
    """``[rows]`` at the first evaluation, where searches go through a surrogate."""
    if recipe.surrogate is None:
        return None
    return recipe.surrogate.sharpness(torch.zeros(rows, device=device), recipe.steps)


def searches_at_once(search: Search, victims: Tensor, memory: Memory) -> int:
    """Count the tasks that fit into memory at once.

    Parameters
    ----------
    search : Search
    victims : Tensor
        ``[T]``, int64, the victim of each task.
    memory : Memory

    Returns
    -------
    int
        A power of two where they do not all fit, so that a little more or less free memory leaves the bits of
        the results alone.
    """
    tasks = search.starts.shape[0]
    if tasks == 1 or (tasks <= max(_MEASURED) and memory.bears(tasks)):
        return tasks
    fitting = search.matching.quantum if isinstance(search.matching, IsolatedMatching) else Quantum()
    few = fitting.of(memory.measured[0])
    many = fitting.of(max(memory.measured[1], few + 1))
    rows = rows_that_fit(_step_bytes(search, victims, (few, many)), _kept_by_row(search), memory.budget)
    return tasks if rows >= tasks else 2 ** (rows.bit_length() - 1)


def _step_bytes(search: Search, victims: Tensor, counts: tuple[int, int]) -> dict[int, int]:
    """The most that a step of so many rows holds beyond what there is before, by the number of rows."""
    starts, labels, matching = search.starts, search.labels, search.matching
    sharpness = _first_sharpness(search.recipe, max(counts), starts.device)

    def step(rows: int) -> int:
        tried = torch.arange(rows) % starts.shape[0]
        given = (starts[tried], labels[tried], None if sharpness is None else sharpness[:rows])
        matching.retarget(victims[:1])  # what the last step's rows held is none of this one's

        def evaluate() -> None:
            matching.retarget(victims[tried])  # rows of several victims get copies of their targets
            matching.value_and_gradient(*given)

        return peak_bytes(evaluate, starts.device)

    step(min(counts))  # what is set up once is none of a step's
    return {rows: step(rows) for rows in counts}


def _kept_by_row(search: Search) -> int:
    """Bytes that a row keeps between steps: the optimiser's, and the search's own."""
    starts = search.starts
    variables = starts[0].numel() + (search.labels[0].numel() if search.joint else 0)
    optimiser = make_optimizer(search.recipe, 1, variables, starts).state().values()
    own = (4 * variables + search.recipe.steps) * starts.element_size()
    return sum(tensor.nbytes for tensor in optimiser) + own
