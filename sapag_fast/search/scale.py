"""How large a victim's distance is at noise, and the scale that brings it to where penalties are set for."""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.matching.base import Matching
from sapag_fast.runtime.memory import is_out_of_memory
from sapag_fast.search.box import Box
from sapag_fast.search.starts import make_start

__all__ = ["SCALED_KIND", "TYPICAL", "USUAL", "noise_distances", "scales"]

TYPICAL = 0.3
"""The distance at noise that the recipes' penalties were set for."""
USUAL = (0.02, 15.0)
"""Distances at noise of the networks that the recipes were measured on: these are not scaled."""
SCALED_KIND = "sapag"
"""The kind that recipes were set for; other kinds have other ranges, and keep their scale."""

_DRAWS = 2
_SEED = 0


def noise_distances(
    matching: Matching,
    starts: Tensor,
    labels: Tensor,
    restarts: int,
    *,
    bounds: Box | None,
    sharpness: Tensor | None = None,
    rows: int,
) -> Tensor:
    """Each victim's distance at noise: the geometric mean over two draws, the same for all victims.

    Parameters
    ----------
    matching : Matching
    starts, labels : Tensor
        Of all tasks, ``[V x restarts, ...]``; the labels of a victim's first restart are taken.
    restarts : int
    bounds : pair of float, pair of Tensor or None
        The noise fills them; None: the unit interval.
    sharpness : Tensor, optional
        ``[]``, the surrogate's at the first evaluation.
    rows : int
        Evaluations at once; fewer where memory runs out.

    Returns
    -------
    Tensor
        ``[V]``, on the starts' device.
    """
    victims = starts.shape[0] // restarts
    generator = torch.Generator().manual_seed(_SEED)
    draws = [make_start("uniform", starts.shape[1:], bounds, generator).to(starts) for _ in range(_DRAWS)]
    logarithm = starts.new_zeros(victims)
    first = 0
    while first < victims:
        some = torch.arange(first, min(first + rows, victims), device=starts.device)
        sharp = None if sharpness is None else sharpness.expand(len(some))
        try:
            matching.retarget(some)
            for draw in draws:
                inputs = draw.expand(len(some), *draw.shape).contiguous()
                distance, _, _ = matching.value_and_gradient(inputs, labels[some * restarts], sharp)
                logarithm[some] += distance.to(starts.dtype).log() / _DRAWS
        except Exception as error:
            if not is_out_of_memory(error) or rows == 1:
                raise
            rows = rows // 2
            logarithm[some] = 0.0
            continue
        first += len(some)
    return logarithm.exp()


def scales(noise: Tensor) -> Tensor:
    """``[V]`` from distances at noise ``[V]``: 1 where these are usual, or tell nothing."""
    low, high = USUAL
    unusual = torch.isfinite(noise) & (noise > 0) & ((noise < low) | (noise > high))
    return torch.where(unusual, TYPICAL / noise, 1.0)
