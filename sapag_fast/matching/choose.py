"""Where an attack's distance and its gradient toward the inputs come from.

Every implementation forms the dummy gradient of each recovery with an autograd graph toward the inputs, asks
the fused distance for its value and for V = dD/d(dummy gradient) outside of autograd, and sends V back
through the graph as ``grad_outputs``, toward the inputs alone. They differ in how the dummy gradients of R
recoveries are formed; the attack sees only `Matching`.
"""

from __future__ import annotations

from torch import Tensor

from sapag_fast.matching.base import Matching
from sapag_fast.matching.explicit import ExplicitMatching, explicit_or_reason
from sapag_fast.matching.one_by_one import SequentialMatching
from sapag_fast.matching.vmap import VmapMatching
from sapag_fast.runtime.memory import is_out_of_memory
from sapag_fast.victim.problem import Problem

__all__ = ["choose_matching"]


_MANY_PARAMETERS = 1_000_000
"""From here on explicit mode may pay for one recovery alone: it saves passes over the weights' gradients."""


def choose_matching(
    problem: Problem,
    inputs: Tensor,
    labels: Tensor,
    victims: Tensor | None = None,
    *,
    recoveries: int | None = None,
    sharpness: Tensor | None = None,
) -> Matching:
    """The fastest way that is right on these first `inputs`.

    Several recoveries: `explicit` if it covers the model and agrees with autograd, else `vmap` if the module
    bears it, else `sequential`. One: `single`, unless the network is large and `explicit` need not form most
    of its weights' gradients.

    Parameters
    ----------
    victims : Tensor, optional
        ``[R]``, int64: row r searches ``victims[r]``; None: the problem's own order.
    recoveries : int, optional
        How many there will be at once; None: R.
    sharpness : Tensor, optional
        ``[R]``, where the searches go through the surrogate: what is tried is the surrogate then.
    """
    victims = problem.rows() if victims is None else victims
    sequential = SequentialMatching(problem)
    sequential.retarget(victims)
    # One recovery alone: whatever is wrong with the module or its loss shows here, and not as a failure of
    # vmap.
    sequential.measure_convolutions(inputs, labels, sharpness)
    single = sequential.victims[0] if inputs.shape[0] == problem.victims == 1 else None
    if single is not None and problem.parameters_count < _MANY_PARAMETERS:
        return single
    explicit = explicit_or_reason(
        problem,
        inputs,
        labels,
        SequentialMatching,
        victims=victims,
        recoveries=recoveries,
        sharpness=sharpness,
    )
    if isinstance(explicit, ExplicitMatching) and (single is None or explicit.formed_share < 0.5):
        return explicit
    reason = explicit if isinstance(explicit, str) else "one recovery, whose gradients are best formed"
    if single is not None:
        single.reason = reason
        return single
    matching = VmapMatching(problem)
    matching.reason = sequential.reason = reason
    try:
        matching.retarget(victims)
        matching.value_and_gradient(inputs, labels, sharpness)
    # What vmap cannot batch shows in many ways: data-dependent control flow, .item(), in-place writes,
    # missing rules.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        sequential.reason += f"; vmap fails on it ({type(error).__name__})"
        return sequential
    return matching
