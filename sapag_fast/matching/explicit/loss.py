"""The victim's loss of every recovery on its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sapag_fast.victim.problem import LossFunction

__all__ = ["losses"]

_IGNORED = -100  # cross-entropy's default ignore_index
_WHOLE = 32
"""Rows of a loss that leave nothing over in an element-wise operator, whatever the number of classes."""


def losses(loss_fn: LossFunction, output: Tensor, labels: Tensor, *, filled: bool = False) -> Tensor:
    """``loss_fn(output[r], labels[r])`` of every recovery, ``[R]``.

    Plain cross-entropy runs as one batch, others through vmap, or one after the other where vmap cannot.

    Parameters
    ----------
    loss_fn : callable
        ``(output, labels) -> scalar``.
    output : Tensor
        ``[R·B, ...]``.
    labels : Tensor
        ``[R, B, ...]``.
    filled : bool
        Whether the rows are filled up, with the first recovery's, so that each one's loss has the same bits
        however many there are. The loss alone is cheaper to fill up than the network.
    """
    if filled and (missing := -len(labels) % (_WHOLE // math.gcd(_WHOLE, labels.shape[1]))):
        first = output[: labels.shape[1]].detach().repeat(missing, *[1] * (output.dim() - 1))
        known = labels[:1].detach().expand(missing, *labels.shape[1:])
        return losses(loss_fn, torch.cat((output, first)), torch.cat((labels, known)))[: len(labels)]
    if loss_fn is F.cross_entropy and output.dim() == 2:
        return _cross_entropy(output, labels)
    rows = output.unflatten(0, labels.shape[:2])
    try:
        return torch.func.vmap(loss_fn, randomness="different")(rows, labels)
    # In as many ways as there are functions that vmap cannot batch.
    except Exception:
        return torch.stack([loss_fn(row, known) for row, known in zip(rows, labels, strict=True)])


def _cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    each = F.cross_entropy(output, labels.flatten(0, 1), reduction="none").view(labels.shape[:2])
    if labels.is_floating_point():
        return each.mean(1)
    return each.sum(1) / (labels != _IGNORED).sum(1)
