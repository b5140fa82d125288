"""What clients do to a picture before their network sees it: (x - mean) / std, by channel.

It is taken as the first layer of the victim's network, so that all else (starts, penalties, scores,
certificates) is about the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast import checks as check

__all__ = [
    "Normalised",
    "PerChannel",
    "as_tuple",
    "check_statistics",
    "each_channel",
    "normalised",
    "of_channels",
]

PerChannel = float | Sequence[float]
"""One number for all channels, or one for each."""


class Normalised(nn.Module):
    """A network behind (x - mean) / std.

    Neither is a buffer: the network's own state stays as it is.

    Parameters
    ----------
    model : nn.Module
        Left as it is found.
    mean, std : Tensor
        ``[channels, 1, ...]``, or ``[]``, of the model's type, where its inputs are.
    """

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.mean, self.std = mean, std

    def forward(self, inputs: Tensor) -> Any:
        """Call the network with normalised inputs ``[B, *input_shape]``."""
        return self.model((inputs - self.mean) / self.std)


def normalised(
    model: nn.Module,
    mean: PerChannel | None,
    std: PerChannel | None,
    input_shape: Sequence[int],
    device: torch.device | str | None = None,
) -> nn.Module:
    """Put the normalisation in front of the model; without one, return the model itself.

    Parameters
    ----------
    model : nn.Module
    mean, std : float, sequence of float or None
        As `check_statistics` returns them.
    input_shape : sequence of int
        Channels first.
    device : torch.device or str, optional
        Where the inputs will be; None: where the model is.

    Raises
    ------
    ValueError
        For another number of channels.
    """
    if mean is None or std is None:
        return model
    like = next(model.parameters())
    placed = {"device": like.device if device is None else device, "dtype": like.dtype}
    both = (of_channels(name, value, input_shape) for name, value in (("mean", mean), ("std", std)))
    return Normalised(model, *(value.to(**placed) for value in both))


def check_statistics(mean: object, std: object) -> tuple[PerChannel | None, PerChannel | None]:
    """Return mean and std, each one number or a tuple with one for each channel, or both None.

    Raises
    ------
    TypeError, ValueError
        For one without the other, what is no number, and a std that is not positive.
    """
    if (mean is None) != (std is None):
        given, missing = ("std", "mean") if mean is None else ("mean", "std")
        raise ValueError(f"{missing} must be given with {given}, found None")
    if mean is None:
        return None, None
    checked_mean, checked_std = each_channel("mean", mean), each_channel("std", std)
    for value in checked_std if isinstance(checked_std, Sequence) else (checked_std,):
        check.check_positive("std", value)
    return checked_mean, checked_std


def each_channel(name: str, value: object) -> PerChannel:
    """Return one number, or a tuple with one for each channel.

    Raises
    ------
    TypeError, ValueError
        For what is neither, and what is not finite.
    """
    if hasattr(value, "tolist"):  # of torch and numpy
        value = value.tolist()  # type: ignore[attr-defined]
    if isinstance(value, Real):
        return _number(name, value)
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
        found = check.shown(value)
        raise TypeError(f"{name} must be a number, or a sequence of one for each channel, found {found}")
    numbers = tuple(_number(name, one) for one in value)
    return numbers[0] if len(numbers) == 1 else numbers


def as_tuple(value: PerChannel | None) -> tuple[float, ...] | None:
    """The numbers, whether there is one or one for each channel."""
    if value is None:
        return None
    return tuple(value) if isinstance(value, Sequence) else (value,)


def of_channels(name: str, value: PerChannel, input_shape: Sequence[int]) -> Tensor:
    """Make a tensor that broadcasts over inputs ``[..., *input_shape]``, float64.

    Returns
    -------
    Tensor
        ``[]``, or ``[channels, 1, ...]``.

    Raises
    ------
    ValueError
        For another number of channels.
    """
    if isinstance(value, Sequence) and len(value) != input_shape[0]:
        raise ValueError(
            f"{name} must be one number, or one for each of the {input_shape[0]} channels of input_shape "
            f"{list(input_shape)}, found {len(value)}"
        )
    tensor = torch.tensor(value, dtype=torch.float64)
    return tensor.view(-1, *[1] * (len(input_shape) - 1)) if isinstance(value, Sequence) else tensor


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, found {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number) or abs(number) > check.MOST_WEIGHT:
        raise ValueError(f"{name} must lie in {-check.MOST_WEIGHT:g}..{check.MOST_WEIGHT:g}, found {number}")
    return number
