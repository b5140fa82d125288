"""A linear layer's gradient as the product of what flows back and what the layer was fed.

The gradient of the weight is Δᵀ X, that of the bias Δᵀ 1, with X ``[B, numbers]`` what the layer was fed and
Δ ``[B, rows]`` the loss's gradient toward what it gave. One input: each row of the one over its entry of the
other is X. Several: their product has rank B, and behind ReLU about half of Δ is zero, which tells the rows
of Δ among all vectors of its span (SPEAR, Dimitrov et al. 2024); the bias then tells their lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.exact.answer import DoesNotApplyError
from sapag_fast.exact.sparse_vectors import sparse_vectors

__all__ = ["Factors", "factors_of_batch", "factors_of_one"]

_MOST_INPUTS = 32
_SPARE = 8
"""Singular values beyond the batch's, which tell the noise."""
_NOISY = 1e-4
"""The most of the first singular value that noise may have."""
_ROUNDINGS = 16
"""The most that the product may leave of the gradient, in roundings of its numbers."""


@dataclass(frozen=True, eq=False)
class Factors:
    """Rows of Δ and what the layer was fed, of r inputs, float64 on the CPU.

    Attributes
    ----------
    flows : Tensor
        ``[r, rows]``.
    fed : Tensor
        ``[r, numbers]``.
    errors : Tensor
        ``[r]``, about how far the numbers of each input are off: what the product leaves of the gradient,
        carried over to them.
    found : str
        In words, how.
    """

    flows: Tensor
    fed: Tensor
    errors: Tensor
    found: str


def factors_of_one(weight: Tensor, bias: Tensor) -> Factors:
    """The factors of one input's gradients, ``[rows, numbers]`` and ``[rows]``, by least squares over rows.

    Raises
    ------
    DoesNotApplyError
        Where the bias's gradient is all zero, or the numbers are not finite.
    """
    rounding = torch.finfo(weight.dtype).eps
    weight, bias = _checked(weight, bias)
    return _factors(bias[None], weight, bias, rounding, "gradient of the weight over that of the bias")


def factors_of_batch(
    weight: Tensor, bias: Tensor, batch_size: int, *, starts: int, seed: int
) -> Iterator[Factors]:
    """Give factors of several inputs' gradients, from their rank and the zeros in Δ, better and better ones.

    Parameters
    ----------
    weight, bias : Tensor
        ``[rows, numbers]``, ``[rows]``.
    batch_size : int
        Inputs behind them; fewer factors where some are alike, or leave no trace.
    starts : int
        The most starts of the search for the rows of Δ.
    seed : int

    Raises
    ------
    DoesNotApplyError
        Where there are none; the message says why.
    """
    rounding = torch.finfo(weight.dtype).eps
    weight, bias = _checked(weight, bias)
    chance = torch.Generator().manual_seed(seed)
    both = torch.cat((weight, bias[:, None]), 1)
    rows, numbers = both.shape
    if batch_size > _MOST_INPUTS:
        raise DoesNotApplyError(f"a batch of {batch_size}: more than {_MOST_INPUTS} inputs are not tried")
    if batch_size >= min(rows, numbers):
        raise DoesNotApplyError(
            f"a batch of {batch_size} fills the rank of a first layer with {rows} outputs for {numbers - 1} "
            "inputs"
        )
    left, values = _range(both, batch_size + _SPARE, chance)
    noise = float(values[batch_size] / values[0])
    if noise > _NOISY:
        raise DoesNotApplyError(
            f"the first layer's gradient has no rank of {batch_size}: singular value {batch_size + 1} is "
            f"{noise:.1g} of the first (noise, pruning, or more inputs)"
        )
    noise = max(noise, rounding / 8)
    rank = int((values[:batch_size] > 4 * noise * values[0]).sum())
    if rank == 1:
        yield _factors(left[:, :1].T, weight, bias, rounding, "rank one")
        return
    # The next singular value is that of noise, independent from entry to entry.
    errors = noise * values[0] / (rows**0.5 + numbers**0.5) / values[:rank]
    words = f"rank {rank} and the zeros behind ReLU"
    for found in sparse_vectors(left[:, :rank], errors=errors, starts=starts, generator=chance):
        yield _factors(found, weight, bias, rounding, words)


def _factors(directions: Tensor, weight: Tensor, bias: Tensor, rounding: float, words: str) -> Factors:
    """Scale rows ``[r, rows]`` that span the gradient by the bias's."""
    inverse = torch.linalg.pinv(directions.T)  # [r, rows]
    scales = inverse @ bias
    products = inverse @ weight
    if not bool((scales.abs() > 1e-12 * bias.norm() * inverse.norm(dim=1)).all()):
        raise DoesNotApplyError("the bias's gradient does not tell an input's scale: it adds up to zero")
    rest = weight - directions.T @ products
    left = float(rest.norm() / weight.norm().clamp(min=torch.finfo(torch.float64).tiny))
    if not left <= _ROUNDINGS * rounding:
        raise DoesNotApplyError(
            f"{left:.1g} of the first layer's gradient is left beside {len(directions)} input(s): noise, "
            "pruning, half precision, or more inputs"
        )
    # Entries of the rest are taken for independent errors of the gradient's.
    spread = rest.square().mean().sqrt() * inverse.norm(dim=1)
    return Factors(scales[:, None] * directions, products / scales[:, None], spread / scales.abs(), words)


def _checked(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 on the CPU."""
    weight, bias = weight.detach().double().cpu(), bias.detach().double().cpu()
    if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise DoesNotApplyError("the first layer's gradient is not finite")
    if not bool(bias.any()):
        raise DoesNotApplyError("the first layer's bias has a gradient of zero")
    return weight, bias


def _range(matrix: Tensor, rank: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Left singular vectors and singular values, the first `rank` of them."""
    rank = min(rank, *matrix.shape)
    drawn = torch.randn(matrix.shape[1], rank, generator=chance, dtype=matrix.dtype)
    frame = torch.linalg.qr(matrix @ drawn).Q
    frame = torch.linalg.qr(matrix @ (matrix.T @ frame)).Q
    left, values, _ = torch.linalg.svd(frame.T @ matrix, full_matrices=False)
    return frame @ left, values
