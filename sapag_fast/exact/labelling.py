"""Which label each input has, and how often it occurs, by what flows back to the first layer.

The gradient gives, beside the inputs, the loss's gradient toward what the first layer made of each of them.
The network itself gives the same for every label that an input may have: the right one has its direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sapag_fast.exact.answer import DoesNotApplyError

__all__ = ["Labelled", "labelled"]

_DIRECTION = 1e-3
"""The most by which the cosine of the right label's direction falls short of 1."""
_WHOLE = 0.02
"""The most by which a count is no whole number."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels of r inputs.

    Attributes
    ----------
    choice : Tensor
        ``[r]``, int64, which of the possible labels.
    counts : Tensor
        ``[r]``, int64, how often each input occurs.
    missing : int
        Inputs of the batch that leave no trace.
    """

    choice: Tensor
    counts: Tensor
    missing: int


def labelled(
    flows: Tensor,
    flows_for: Callable[[int], Tensor],
    possible: int,
    batch_size: int,
    *,
    once: bool,
) -> Labelled:
    """Find the label of each input.

    Parameters
    ----------
    flows : Tensor
        ``[r, rows]``, as the gradient gives them.
    flows_for : callable
        Of label l to ``[r, rows]``, as the network gives them where that is the label of all r inputs.
    possible : int
        Labels.
    batch_size : int
        Inputs behind the gradient, B.
    once : bool
        Whether each of the possible labels belongs to one input.

    Raises
    ------
    DoesNotApplyError
        Where an input has none of the labels.
    """
    r = len(flows)
    own = torch.stack([flows_for(label) for label in range(possible)])  # [labels, r, rows]
    cosines = F.cosine_similarity(own, flows[None], dim=-1)
    choice = _one_each(cosines) if once else cosines.argmax(0)
    rows = torch.arange(r)
    best = cosines[choice, rows]
    if not bool((best > 1 - _DIRECTION).all()):
        raise DoesNotApplyError(
            f"{int((best > 1 - _DIRECTION).sum())} of {r} inputs that fit the first layer's gradient fit the "
            "other layers' with some label"
        )
    ratio = flows.norm(dim=1) / own[choice, rows].norm(dim=1) * (batch_size / r)
    counts, missing = _counts(ratio, batch_size)
    return Labelled(choice, counts, missing)


def _one_each(cosines: Tensor) -> Tensor:
    """Give each input ``[labels, r]`` a label of its own, the surest first."""
    left = cosines.clone()
    choice = torch.zeros(cosines.shape[1], dtype=torch.long)
    for _ in range(min(cosines.shape)):
        label, row = divmod(int(left.argmax()), left.shape[1])
        choice[row] = label
        left[label], left[:, row] = -torch.inf, -torch.inf
    return choice


def _counts(ratio: Tensor, batch_size: int) -> tuple[Tensor, int]:
    """How often each of r inputs occurs, and how many are missing, of what flows from one over one's share.

    A client that clips or scales changes all alike, so that only their ratios tell; then none is missing.
    """
    r = len(ratio)
    if r == batch_size:
        return torch.ones(r, dtype=torch.long), 0
    for counts in (ratio, batch_size * ratio / ratio.sum()):
        whole = counts.round()
        near = bool(((counts - whole).abs() < _WHOLE * counts).all() and (whole > 0).all())
        if near and whole.sum() <= batch_size:
            return whole.long(), batch_size - int(whole.sum())
    raise DoesNotApplyError(
        f"the first layer's gradient holds {r} inputs, which occur no whole number of times in a batch of "
        f"{batch_size}"
    )
