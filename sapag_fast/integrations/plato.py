"""Plato's gradient leakage attack (examples/gradient_leakage_attacks): its `_reconstruction_costs`.

from sapag_fast.integrations.plato import reconstruction_costs
Server._reconstruction_costs = staticmethod(reconstruction_costs("sapag"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from sapag_fast.integrations import inverting_gradients

__all__ = ["reconstruction_costs"]

Costs = Callable[[Sequence[Sequence[Tensor]], Sequence[Tensor]], Tensor]


def reconstruction_costs(cost_fn: str = "l2", cost_weights: str = "equal") -> Costs:
    """Make a function (dummy gradients, target) -> mean cost, shape ``()``.

    Plato reads both from its configuration (``algorithm.cost_fn``, ``algorithm.cost_weights``) at every call;
    here they are given once.

    Parameters
    ----------
    cost_fn, cost_weights : str
        ``cost_fn`` and ``weights`` of `sapag_fast.integrations.inverting_gradients.reconstruction_costs`.

    Raises
    ------
    ValueError
        For names that do not exist, listing those that do.
    """
    inverting_gradients.check_cost(cost_fn, cost_weights)

    def costs(dummy: Sequence[Sequence[Tensor]], target: Sequence[Tensor]) -> Tensor:
        return inverting_gradients.reconstruction_costs(dummy, target, cost_fn, weights=cost_weights)

    return costs
