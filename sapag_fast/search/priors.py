"""Penalties on the candidate inputs themselves, one value per recovery, with gradients written by hand.

Both priors are a few element-wise operations; their gradients are written out because recording and replaying
an autograd graph of a dozen tiny operations costs more than the operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["box_prior", "require_image_shape", "total_variation"]


def require_image_shape(input_shape: Sequence[int]) -> None:
    """Check that `input_shape` is ``[channels, ..., height, width]``.

    Raises
    ------
    ValueError
        When it has less than two spatial sizes.
    """
    if len(input_shape) < 3:
        raise ValueError(
            "tv: total variation needs inputs of shape [channels, height, width] with at least two spatial "
            f"dimensions, found input_shape {tuple(input_shape)}"
        )


def box_prior(inputs: Tensor, low: float | Tensor, high: float | Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared distance to the box ``[low, high]``: ``mean((x - clamp(x, low, high))²)``.

    Parameters
    ----------
    inputs : Tensor
        ``[R, ...]``, floating point.
    low, high : float or Tensor
        The box; tensors broadcast over the inputs.

    Returns
    -------
    value : Tensor
        ``[R]``.
    gradient : Tensor
        Shaped like `inputs`.
    """
    inside = inputs.clamp(low, high)  # type: ignore[arg-type]  # both are numbers, or both tensors
    outside = (inputs - inside).flatten(1)
    size = max(outside.shape[1], 1)
    value = torch.linalg.vecdot(outside, outside) / size
    return value, outside.mul_(2.0 / size).view_as(inputs)


def total_variation(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Anisotropic total variation, ``mean|x[.., 1:, :] - x[.., :-1, :]| + mean|x[.., 1:] - x[.., :-1]|``.

    The last two dimensions are height and width; the means run over all images and channels of a recovery.
    The gradient takes sign(0) = 0.

    Parameters
    ----------
    inputs : Tensor
        ``[R, ..., height, width]``, floating point.

    Returns
    -------
    value : Tensor
        ``[R]``.
    gradient : Tensor
        Shaped like `inputs`.
    """
    rows = inputs[..., 1:, :] - inputs[..., :-1, :]
    columns = inputs[..., 1:] - inputs[..., :-1]
    each = tuple(range(1, inputs.dim()))
    down, across = 1.0 / max(rows[0].numel(), 1), 1.0 / max(columns[0].numel(), 1)
    value = torch.linalg.vector_norm(rows, 1, each) * down
    value += torch.linalg.vector_norm(columns, 1, each) * across
    rows.sign_().mul_(down)
    columns.sign_().mul_(across)
    gradient = F.pad(rows, (0, 0, 1, 0))
    gradient[..., :-1, :] -= rows
    gradient[..., 1:] += columns
    gradient[..., :-1] -= columns
    return value, gradient
