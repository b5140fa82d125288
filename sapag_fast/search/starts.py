"""Where the searches begin."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sapag_fast import checks as check
from sapag_fast.search.box import Box

__all__ = ["START_KINDS", "make_start", "recovery_generator"]

START_KINDS = ("grey", "uniform", "blurred", "noise")
"""Kinds of start that `make_start` knows."""


def recovery_generator(seed: int, victim: int | str, restart: int) -> torch.Generator:
    """The CPU generator of one recovery: its numbers depend on nothing but these three."""
    return torch.Generator().manual_seed(random.Random(f"{seed}/{victim}/{restart}").getrandbits(63))


def make_start(kind: str, shape: Sequence[int], bounds: Box | None, generator: torch.Generator) -> Tensor:
    """One start ``[B, *input_shape]``, float64, on the CPU.

    ``grey`` is the middle of the bounds with noise of 0.01 of their width, ``uniform`` fills the bounds,
    ``blurred`` is noise smoothed over the last two dimensions and brought to mean and deviation of a picture,
    ``noise`` is standard normal (DLG's). Without bounds the unit interval stands in.

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    low, high = bounds if bounds is not None else (0.0, 1.0)
    middle, width = (low + high) / 2, high - low
    draw = {"generator": generator, "dtype": torch.float64}
    if kind == "grey":
        return middle + 0.01 * width * torch.randn(*shape, **draw)
    if kind == "uniform":
        return low + width * torch.rand(*shape, **draw)
    if kind == "noise":
        return torch.randn(*shape, **draw)
    check.check_choice("start", kind, START_KINDS)
    noise = torch.randn(*shape, **draw)
    if len(shape) < 4:
        return middle + 0.25 * width * noise
    planes = noise.flatten(0, -3)[:, None]
    for size in shape[-2:]:
        # Smooth along the last dimension, then swap: twice gives both, with the dimensions back in place.
        sigma = max(size / 8, 1.0)
        reach = max(1, min(size - 1, int(3 * sigma)))
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma).square())
        planes = F.conv2d(
            F.pad(planes, (0, 0, reach, reach), mode="replicate"), (taps / taps.sum()).view(1, 1, -1, 1)
        ).mT
    smooth = planes.reshape(shape)
    return middle + 0.25 * width * smooth / smooth.std().clamp(min=1e-12)
