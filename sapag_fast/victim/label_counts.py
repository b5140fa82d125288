"""How often each class occurs in a batch, from the gradient of the last linear layer's bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["gradient_scale", "label_counts", "real_counts"]

_NEAR_WHOLE = 0.2
"""Estimated counts that are all so near to whole numbers, none below zero, are a plain mean's."""
_ALIKE = 0.1
"""Relative spread of the scales that absent classes tell, above which they tell none."""
_FEWEST = 3
"""Absent classes that have to agree."""
_NEAR_ONE = (0.8, 1.25)
"""Scales that an inaccurate mean output would give a plain mean."""


def real_counts(error: Tensor, batch_size: int, probabilities: Tensor) -> Tensor:
    """Estimate counts as real numbers, B (mean p - error), ``[..., classes]``; see `label_counts`."""
    return batch_size * (probabilities - error).double()


def label_counts(error: Tensor, batch_size: int, probabilities: Tensor) -> Tensor:
    """How often each class occurs, from the mean of p - y over the batch.

    Parameters
    ----------
    error : Tensor
        ``[..., classes]``, the last bias's gradient (or an estimate of it).
    batch_size : int
        B, the number of images.
    probabilities : Tensor
        ``[classes]`` or ``[..., classes]``, an estimate of the mean softmax output.

    Returns
    -------
    Tensor
        ``[..., classes]``, int64, non-negative, each row with sum B: the real-valued estimate B (p - error),
        at least 1 where the error is negative, rounded by largest remainder.
    """
    estimate = real_counts(error, batch_size, probabilities)
    certain = (error < 0).to(torch.float64)
    # More negative entries than images cannot come from a plain gradient (a defended one, say): keep the
    # strongest.
    rank = error.argsort(-1).argsort(-1)
    certain = torch.where(rank < batch_size, certain, 0.0)
    counts = torch.maximum(estimate.floor().clamp(min=0.0), certain)
    for _ in range(batch_size * error.shape[-1]):
        missing = batch_size - counts.sum(-1, keepdim=True)
        if not missing.any():
            break
        remainder = estimate - counts
        grow = nn.functional.one_hot(remainder.argmax(-1), error.shape[-1])
        spare = torch.where(counts > certain, remainder, torch.inf)
        shrink = nn.functional.one_hot(spare.argmin(-1), error.shape[-1])
        counts = counts + torch.where(missing > 0, grow, torch.where(missing < 0, -shrink, 0))
    return counts.long()


def gradient_scale(error: Tensor, batch_size: int, probabilities: Tensor) -> float | None:
    """Estimate by how much a gradient is larger than the batch's mean: 0.5 for half the loss, B for a sum.

    Where a class is absent, mean p_c - error_c / scale = 0. Of the classes that occur error_c / mean p_c is
    smaller by scale / (B mean p_c) and more, so the largest of these quotients are the absent ones'.

    Parameters
    ----------
    error : Tensor
        ``[classes]``, one batch's.
    batch_size : int
        B.
    probabilities : Tensor
        ``[classes]``, an estimate of the mean softmax output.

    Returns
    -------
    float or None
        1 where the error may be a plain mean's; None where it is none's, and too few absent
        classes agree.
    """
    counts = real_counts(error, batch_size, probabilities)
    if float(counts.min()) > -_NEAR_WHOLE and float((counts - counts.round()).abs().max()) < _NEAR_WHOLE:
        return 1.0
    quotients = error / probabilities
    reach = 1.0 - 0.5 / (batch_size * probabilities)
    absent = quotients[(error > 0) & (quotients >= quotients.max() * reach)]
    if len(absent) < _FEWEST:
        return None
    scale = float(absent.median())
    if float((absent / scale - 1.0).abs().max()) >= _ALIKE:
        return None
    return 1.0 if _NEAR_ONE[0] < scale < _NEAR_ONE[1] else scale
