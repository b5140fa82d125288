"""Which way to match gradients is the fastest that is right."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sapag_fast.matching.base import Matching
from sapag_fast.matching.explicit import NotCovered, verified_matching
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.matching.vmap import VmapMatching
from sapag_fast.runtime.memory import is_out_of_memory
from sapag_fast.victim.problem import Problem

__all__ = ["Choice", "choose_matching"]

_MANY_PARAMETERS = 1_000_000
"""From here on explicit mode may pay for one recovery alone: it saves passes over the weights' gradients."""


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
    matching = VmapMatching(problem)
    try:
        matching.retarget(victims)
        matching.value_and_gradient(inputs, labels, sharpness)
    # What vmap cannot batch shows in many ways: data-dependent control flow, .item(), in-place writes,
    # missing rules.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return Choice(sequential, f"{reason}; vmap fails on it ({type(error).__name__})")
    return Choice(matching, reason)
