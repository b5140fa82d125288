"""The box in which inputs lie: a range for all values, or one for each channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.victim.normalised import PerChannel, each_channel, of_channels

__all__ = ["Bounds", "Box", "box_of", "check_bounds", "check_within"]

Bounds = tuple[PerChannel, PerChannel]
"""Lowest and highest value, each one number or one for each channel."""

Box = tuple[float, float] | tuple[Tensor, Tensor]
"""The same as it is calculated with; tensors broadcast over ``[..., *input_shape]``."""


def check_bounds(bounds: object) -> Bounds | None:
    """Return lowest and highest value, two numbers or two tuples of one length, or None.

    Raises
    ------
    TypeError, ValueError
        For what is none of these, low values that are not below the high ones, and too large ones.
    """
    if bounds is None or not _by_channel(bounds):
        return check.check_bounds(bounds)
    low, high = (each_channel("bounds", bound) for bound in bounds)  # type: ignore[attr-defined]
    count = max(len(bound) if isinstance(bound, Sequence) else 1 for bound in (low, high))
    lows, highs = (bound if isinstance(bound, Sequence) else (bound,) * count for bound in (low, high))
    if len(lows) != len(highs):
        raise ValueError(
            f"bounds must have as many low values as high ones, found {len(lows)} and {len(highs)}"
        )
    for pair in zip(lows, highs, strict=True):
        check.check_bounds(pair)
    if len(set(lows)) == len(set(highs)) == 1:
        return lows[0], highs[0]
    return lows, highs


def box_of(
    bounds: Bounds | None,
    input_shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Box | None:
    """Make the box of inputs of this shape.

    Raises
    ------
    ValueError
        For another number of channels.
    """
    if bounds is None:
        return None
    low, high = bounds
    if not isinstance(low, Sequence) and not isinstance(high, Sequence):
        return low, high
    lows, highs = (of_channels("bounds", bound, input_shape).to(device, dtype) for bound in bounds)
    return lows, highs


def check_within(mean: PerChannel | None, bounds: Bounds | None) -> None:
    """Refuse a mean of pictures that lies beyond their bounds: it is another range's.

    Raises
    ------
    ValueError
        For such a mean, and for another number of channels.
    """
    if mean is None or bounds is None:
        return
    channels = {len(value) for value in (mean, *bounds) if isinstance(value, Sequence)}
    if len(channels) > 1:
        raise ValueError(f"mean and bounds must be of as many channels, found {sorted(channels)}")
    count = max(channels, default=1)
    each, lows, highs = (
        value if isinstance(value, Sequence) else (value,) * count for value in (mean, *bounds)
    )
    for value, low, high in zip(each, lows, highs, strict=True):
        if not low <= value <= high:
            hint = " (divide what belongs to 0..255 by 255)" if (low, high) == (0.0, 1.0) else ""
            raise ValueError(
                f"mean must lie in the pictures' bounds {low:g}..{high:g}{hint}, found {value:g}"
            )


def _by_channel(bounds: object) -> bool:
    """Whether this is a pair of which one is not a number."""
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        return False
    return any(isinstance(bound, tuple | list) or getattr(bound, "ndim", 0) == 1 for bound in bounds)
