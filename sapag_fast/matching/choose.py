"""Which way to match gradients is the fastest that is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sapag_fast.matching.base import Matching
from sapag_fast.matching.explicit import ExplicitMatching, NotCovered, verified_matching
from sapag_fast.matching.isolated import ApartMatching, IsolatedMatching, confirmed, quantum_of
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.matching.vmap import VmapMatching
from sapag_fast.runtime.memory import is_out_of_memory
from sapag_fast.victim.problem import Problem

__all__ = ["Choice", "choose_isolated", "choose_matching"]

_MANY_PARAMETERS = 1_000_000
"""From here on explicit mode may pay for one recovery alone: it saves passes over the weights' gradients."""

_NOMINAL = 64
"""Recoveries for which the ways of isolated searches are chosen, however many there are."""

_ALIKE = 3
"""Rows by which networks are measured, however many there are. What is computed of parameters and buffers
alone is no row's, and mostly no multiple of three, by which it could be taken for it.
"""


@dataclass(frozen=True)
class Choice:
    """A way to match gradients, and why it was chosen.

    Attributes
    ----------
    matching : Matching
        Ready to evaluate the recoveries that it was chosen for.
    reason : str
        Why it is not a faster one; empty for the fastest.
    """

    matching: Matching
    reason: str = ""

    @property
    def mode(self) -> str:
        """Name of the way: ``explicit``, ``vmap``, ``sequential`` or ``single``."""
        return self.matching.mode


def choose_matching(
    problem: Problem,
    inputs: Tensor,
    labels: Tensor,
    victims: Tensor | None = None,
    *,
    recoveries: int | None = None,
    sharpness: Tensor | None = None,
) -> Choice:
    """Find the fastest way that is right on these first `inputs`.

    Several recoveries: ``explicit`` if it covers the model and agrees with autograd, else ``vmap`` if the
    module bears it, else ``sequential``. One: ``single``, unless the network is large and ``explicit`` need
    not form most of its weights' gradients.

    Parameters
    ----------
    problem : Problem
        Network, loss, targets, distance.
    inputs, labels : Tensor
        ``[R, B, *input_shape]`` and ``[R, B, ...]``, the first recoveries' starts.
    victims : Tensor, optional
        ``[R]``, int64: row r searches ``victims[r]``; None: the problem's own order.
    recoveries : int, optional
        How many there will be at once; None: R.
    sharpness : Tensor, optional
        ``[R]``, where the searches go through the surrogate: what is tried is the surrogate then.

    Returns
    -------
    Choice
        The way, and why it is not a faster one.
    """
    victims = problem.rows() if victims is None else victims
    sequential = SequentialMatching(problem)
    sequential.retarget(victims)
    # One recovery alone: whatever is wrong with the module or its loss shows here, and not as a failure of
    # vmap.
    sequential.measure_convolutions(inputs, labels, sharpness)
    single = sequential.victims[0] if inputs.shape[0] == problem.victims == 1 else None
    if single is not None and problem.parameters_count < _MANY_PARAMETERS:
        return Choice(single)
    try:
        explicit = verified_matching(
            problem, inputs, labels, victims=victims, recoveries=recoveries, sharpness=sharpness
        )
        if single is None or explicit.formed_share < 0.5:
            return Choice(explicit)
        reason = "one recovery, whose gradients are best formed"
    except NotCovered as refusal:
        reason = str(refusal)
    if single is not None:
        return Choice(single, reason)
    matching = _vmap_or_why_not(problem, inputs, labels, victims, sharpness)
    if isinstance(matching, str):
        return Choice(sequential, f"{reason}; {matching}")
    return Choice(matching, reason)


def choose_isolated(
    problem: Problem,
    inputs: Tensor,
    labels: Tensor,
    victims: Tensor,
    *,
    sharpness: Tensor | None = None,
    apart: bool = False,
) -> Choice:
    """Find the fastest way of each victim that leaves no trace in the others' bits.

    It follows from the network and that victim's gradient: neither from how many there are, nor from what the
    others' are like. So one recovery alone is matched as many are.

    Parameters
    ----------
    problem, inputs, labels, victims, sharpness
        As of `choose_matching`.
    apart : bool
        Whether each row is to have an evaluation of its own: where one is work enough.

    Returns
    -------
    Choice
        The ways as one `IsolatedMatching`, or `ApartMatching`, and why they are not faster ones.
    """
    sequential = SequentialMatching(problem)
    sequential.retarget(victims)
    sequential.measure_convolutions(inputs, labels, sharpness)
    ways: list[Matching]
    members: Sequence[Sequence[int]] = [range(problem.victims)]
    reason = ""
    try:
        first = verified_matching(
            problem,
            inputs,
            labels,
            victims=victims,
            recoveries=_NOMINAL,
            sharpness=sharpness,
            isolated=True,
        )
        if apart:
            return Choice(ApartMatching(partial(_alone, problem, first.network.memory_format), first.mode))
        ways, members = _by_way(first, inputs, labels, sharpness)
    except NotCovered as refusal:
        reason = str(refusal)
        matching = _vmap_or_why_not(problem, inputs, labels, victims, sharpness)
        if isinstance(matching, str):
            return Choice(sequential, f"{reason}; {matching}")
        if apart:
            return Choice(sequential, reason)  # one row is worth no vmap
        ways = [matching]
    tried = ways[0]
    repeated = torch.arange(_ALIKE, device=inputs.device) % inputs.shape[0]
    few = (inputs[repeated], labels[repeated], None if sharpness is None else sharpness[repeated])
    tried.retarget(torch.zeros(_ALIKE, dtype=torch.long, device=inputs.device))
    quantum = quantum_of(lambda: tried.value_and_gradient(*few), _ALIKE, inputs.device)
    quantum = confirmed(tried, few, quantum)
    isolated = IsolatedMatching(ways, members, quantum)
    isolated.retarget(victims)
    return Choice(isolated, reason)


def _vmap_or_why_not(
    problem: Problem, inputs: Tensor, labels: Tensor, victims: Tensor, sharpness: Tensor | None
) -> VmapMatching | str:
    """Try vmap on these recoveries; the reason, where it does not bear them."""
    matching = VmapMatching(problem)
    try:
        matching.retarget(victims)
        matching.value_and_gradient(inputs, labels, sharpness)
    # What vmap cannot batch shows in many ways: data-dependent control flow, .item(), in-place writes,
    # missing rules.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"vmap fails on it ({type(error).__name__})"
    return matching


def _alone(problem: Problem, memory_format: torch.memory_format, victim: int) -> ExplicitMatching:
    """The matching of one victim's problem."""
    targets = [None if t is None else t[victim : victim + 1] for t in problem.targets]
    way = ExplicitMatching(replace(problem, targets=targets), recoveries=_NOMINAL, isolated=True)
    way.network.memory_format = memory_format
    return way


def _by_way(
    first: ExplicitMatching, inputs: Tensor, labels: Tensor, sharpness: Tensor | None
) -> tuple[list[Matching], list[list[int]]]:
    """Explicit matchings, each of the victims whose targets ask for the same ways, and those victims."""
    problem = first.problem
    apart = first.unlike
    others = set(range(problem.victims)).difference(*apart)
    members = [sorted(others), *apart] if others else apart
    if len(members) < 2:
        return [first], [list(range(problem.victims))]
    ways: list[Matching] = []
    for mine in members:
        targets = [None if t is None else t[mine] for t in problem.targets]
        way = ExplicitMatching(replace(problem, targets=targets), recoveries=_NOMINAL, isolated=True)
        way.network.memory_format = first.network.memory_format
        way.retarget(torch.zeros(inputs.shape[0], dtype=torch.long, device=inputs.device))
        way.value_and_gradient(inputs, labels, sharpness)
        ways.append(way)
    return ways, members
