"""Inverting Gradients (Geiping et al., NeurIPS 2020): its `reconstruction_costs` on the fused kernels.

    import inversefed.reconstruction_algorithms as algorithms
    from sapag_fast.integrations.inverting_gradients import reconstruction_costs
    algorithms.reconstruction_costs = reconstruction_costs

and ``config["cost_fn"] = "sapag"`` in place of ``"sim"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.distances.kind import kinds
from sapag_fast.integrations.both import both_lists
from sapag_fast.integrations.kept import least_norm_cosines, separate, weighted_cosine
from sapag_fast.integrations.selected import kept_selected, present

__all__ = [
    "check_cost",
    "check_indices",
    "chosen_positions",
    "cost",
    "layer_weights",
    "reconstruction_costs",
]

_OWN = ("l2", "l1", "max", "sim", "sim_cmpr0", "simlocal")
_FIRST = {"first": 4, "first4": 4, "first5": 5, "first10": 10, "first50": 50}
_LAST = {"last5": 5, "last10": 10, "last50": 50}
_LARGEST = {"topk-1": 4, "top10": 10, "top50": 50}
_NAMES = ("def", "all", "batch", "topk-2", *_FIRST, *_LAST, *_LARGEST)
_SCHEMES = ("equal", "linear", "exp")


def _largest(gradients: Sequence[Tensor | None], kept: list[int], count: int) -> list[int]:
    tensors = [tensor for i in kept if (tensor := gradients[i]) is not None]
    if not tensors:
        return []
    norms = torch.stack([tensor.detach().norm() for tensor in tensors])
    return [kept[i] for i in norms.topk(min(count, len(norms))).indices.tolist()]


def check_indices(indices: object) -> None:
    """Refuse a choice of gradients by a name that is none; positions are checked where they are used.

    Raises
    ------
    ValueError
        Listing the names.
    """
    if isinstance(indices, str) and indices not in _NAMES:
        names = ", ".join(_NAMES)
        raise ValueError(f"indices: expected a list of positions or one of {names}; found {indices!r}")


def check_cost(cost_fn: str, weights: str) -> None:
    """Refuse costs and schemes of weights that there are not, as `reconstruction_costs` does."""
    if cost_fn not in _OWN:
        check.check_choice("cost_fn", cost_fn, (*_OWN, *kinds()))
    check.check_choice("weights", weights, _SCHEMES)


def chosen_positions(
    indices: str | Sequence[int], trial: Sequence[Tensor | None], target: Sequence[Tensor | None]
) -> list[int]:
    """Positions of the gradients that are compared: given, or by the tool's names for such choices.

    Pairs of None, and those with None on one side, are not among them.
    """
    check_indices(indices)
    count, kept = len(target), present(trial, target)
    if not isinstance(indices, str):
        given = check.check_integers("indices", indices, least=-count, most=count - 1)
        chosen = [i % count for i in given]
    elif indices in ("def", "all"):
        chosen = kept
    elif indices == "batch":
        chosen = torch.randperm(count)[:8].tolist()
    elif indices in _FIRST:
        chosen = list(range(min(_FIRST[indices], count)))
    elif indices in _LAST:
        chosen = list(range(max(count - _LAST[indices], 0), count))
    elif indices in _LARGEST:
        chosen = _largest(target, kept, _LARGEST[indices])
    else:  # topk-2
        chosen = _largest(trial, kept, 4)
    return chosen if len(kept) == count else [i for i in chosen if i in kept]


def layer_weights(scheme: str, count: int) -> tuple[float, ...]:
    """One weight a gradient.

    ``linear`` falls from 1 to 1 / count, ``exp`` by e from each to the next, ``equal`` are all 1.
    """
    return _layer_weights(check.check_choice("weights", scheme, _SCHEMES), count)


@lru_cache(maxsize=64)
def _layer_weights(scheme: str, count: int) -> tuple[float, ...]:
    if scheme == "linear":
        return tuple((count - i) / count for i in range(count))
    if scheme == "exp":
        return tuple(torch.arange(0, -count, -1, dtype=torch.float64).exp().tolist())
    return (1.0,) * count


def cost(
    trial: Sequence[Tensor | None],
    target: Sequence[Tensor | None],
    cost_fn: str,
    scheme: tuple[float, ...],
    chosen: Sequence[int],
) -> Tensor:
    """The cost of the chosen positions of one dummy gradient, shape (), differentiable in `trial`.

    One weight of the `scheme` for each position. ``max`` is no function of sums over layers: it runs as plain
    operations.
    """
    if cost_fn not in _OWN:
        if any(scheme[i] != 1 for i in chosen):
            raise ValueError(f"weights: {cost_fn!r} weighs layers by itself, expected 'equal'")
        return kept_selected(cost_fn, trial, target, chosen)
    weights = tuple(scheme[i] for i in chosen)
    mine, given = [trial[i] for i in chosen], [target[i] for i in chosen]
    if cost_fn == "l2":
        return separate("l2", weights)(mine, given)
    if cost_fn == "l1":
        return separate("l1", weights)(mine, given)
    if cost_fn in ("sim", "sim_cmpr0"):
        return weighted_cosine(weights)(mine, given)
    if cost_fn == "simlocal":
        return least_norm_cosines(weights)(mine, given) + (len(weights) - sum(weights))
    largest = [
        w * (a - g).abs().max()
        for w, a, g in zip(weights, mine, given, strict=True)
        if a is not None and g is not None
    ]
    return torch.stack(largest).sum()


def reconstruction_costs(
    gradients: Sequence[Sequence[Tensor]],
    input_gradient: Sequence[Tensor],
    cost_fn: str = "l2",
    indices: str | Sequence[int] = "def",
    weights: str = "equal",
) -> Tensor:
    """The mean cost of the dummy `gradients`, shape (), as the tool computes it.

    Parameters
    ----------
    gradients : sequence of sequences of Tensor
        Dummy gradients, or differences of parameters after several local steps.
    input_gradient : sequence of Tensor
        What the client shared.
    cost_fn : str
        ``l2``, ``l1``, ``max``, ``sim``, ``simlocal`` with the tool's meaning, ``sim_cmpr0`` of its
        descendants (which prunes nothing, and so is ``sim``), or a kind of `sapag_fast.GradientDistance`,
        which joins weights with their biases.
    indices : str or sequence of int
        Which gradients count; layers follow from all of them. Pairs of None are left out.
    weights : str
        ``equal``, ``linear`` or ``exp``.

    Raises
    ------
    ValueError
        For names that do not exist, naming the argument.
    """
    trials = check.check_tensors("gradients", gradients, of="sequences of tensors")
    given = check.check_tensors("input_gradient", input_gradient)
    check_cost(cost_fn, weights)
    scheme = layer_weights(weights, len(given))
    total: Tensor | None = None
    for number, trial in enumerate(trials):
        mine, _ = both_lists(f"gradients[{number}]", trial, "input_gradient", given)
        chosen = chosen_positions(indices, mine, given)
        if not chosen:
            raise ValueError("indices: expected at least one gradient to compare, found none")
        value = cost(mine, given, cost_fn, scheme, chosen)
        total = value if total is None else total + value
    if total is None:
        raise ValueError("gradients: expected at least one dummy gradient, found none")
    return total / len(trials) if len(trials) > 1 else total
