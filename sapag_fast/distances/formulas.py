"""The formulas of the distances, on the sums of `sapag_fast.distances.sums`.

Each takes ``(sums, weights, bandwidth, l1_weight)`` and returns D ``[R]``, float64. A layer on which a
normalised distance is not defined carries no weight: see `degenerate`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sapag_fast.distances.sums import GradientSums

# A layer whose norm is below this fraction of the whole gradient's holds rounding, not signal (the key bias
# of a softmax attention has a zero gradient); a variance below this fraction of the mean square is a
# constant's rounding.
RELATIVE_NORM_FLOOR = 1e-6
RELATIVE_VARIANCE_FLOOR = 1e-12
NEAR = 0.25  # Σ d² below this part of Σ g²: differences carry more digits than the plain inner product


def degenerate(sums: GradientSums, needs: str) -> Tensor:
    """Layers that carry no weight because a normalised distance is not defined on them.

    Parameters
    ----------
    sums : GradientSums
        Those of the target and the sizes are read.
    needs : str
        ``Kind.needs``: ``"variance"``, ``"norm"`` or ``""``, for which there are none.

    Returns
    -------
    Tensor
        bool ``[R or 1, L]``.
    """
    square = sums.target_square
    if not needs:
        return torch.zeros_like(square, dtype=torch.bool)
    whole = square.sum(-1, keepdim=True)
    bad = (square <= 0) | (square <= RELATIVE_NORM_FLOOR**2 * whole) | (sums.size < 1)
    if needs == "variance":
        bad = bad | (sums.size <= 1) | (sums.target_deviation <= RELATIVE_VARIANCE_FLOOR * square)
    return bad


def unit_difference(sums: GradientSums, dead: Tensor) -> Tensor:
    """‖u' - u‖² with u = g/‖g‖, ``[R, L]``; 0 in the layers that are ``dead``.

    Never 2 - 2 cos near the target, where that loses its digits.
    """
    target = torch.where(dead, 1.0, sums.target_square)
    b = target.sqrt()
    near = ~dead & (sums.square < NEAR * target)

    square = torch.where(near, sums.square, 0.0)
    cross = torch.where(near, sums.cross, 0.0)
    a = (target + 2 * cross + square).sqrt()
    close = (square - ((square + 2 * cross) / (a + b)).square()) / (a * b)

    zero = dead | (sums.dummy_square <= 0)
    a = torch.where(near | zero, 1.0, sums.dummy_square).sqrt()
    far = torch.where(zero, 1.0, 2.0 - 2.0 * sums.inner / (a * b))
    return torch.where(near, close, far)


def _over_layers(per_layer: Tensor, dead: Tensor, sums: GradientSums, weights: Tensor | None) -> Tensor:
    """Σ_l Q_l·value_l over the layers that are not degenerate.

    A non-finite gradient shows in the result even where its layer carries no weight or the kernel would map
    it to a finite 1.
    """
    value = per_layer if weights is None else per_layer * weights
    broken = ~torch.isfinite((sums.square + sums.target_square).detach())
    return torch.where(broken, torch.nan, torch.where(dead, 0.0, value)).sum(-1)


def gaussian(exponent: Tensor) -> Tensor:
    """1 - exp(-z) with all its digits, and with all those of its derivative.

    Autograd takes expm1's derivative as 1 + expm1, which has none left where z is large.
    """
    return torch.where(exponent < 1, -torch.expm1(-exponent), 1 - torch.exp(-exponent))


def sapag(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    """Σ_l Q_l (1 - exp(-z)), z = mean((u' - u)²) / (2 s Var(u)), u = g/‖g‖ in each layer."""
    dead = degenerate(sums, "variance")
    deviation = torch.where(dead, 1.0, sums.target_deviation)
    z = unit_difference(sums, dead) * sums.target_square / (2 * bandwidth * deviation)
    return _over_layers(gaussian(z), dead, sums, weights)


def sapag_mean(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    """Σ_l Q_l (1 - exp(-z)), z = mean(d²) / (2 s Var(g))."""
    dead = degenerate(sums, "variance")
    z = sums.square / (2 * bandwidth * torch.where(dead, 1.0, sums.target_deviation))
    return _over_layers(gaussian(z), dead, sums, weights)


def sapag_sum(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    """Σ_l Q_l (1 - exp(-z)), z = Σ d² / (2 s Var(g)): about n, so that the exponential vanishes."""
    dead = degenerate(sums, "variance")
    z = sums.size * sums.square / (2 * bandwidth * torch.where(dead, 1.0, sums.target_deviation))
    return _over_layers(gaussian(z), dead, sums, weights)


def sapag_global(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    """1 - exp(-‖u' - u‖²/(2 s)), with u = g/‖g‖ over the whole gradient."""
    dead = degenerate(sums, "norm")
    return _over_layers(gaussian(unit_difference(sums, dead) / (2 * bandwidth)), dead, sums, weights)


def l2(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    """Σ_l Q_l Σ d²."""
    return (sums.square if weights is None else sums.square * weights).sum(-1)


def l2_normalized(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    """Σ d² / Σ g² over the whole gradient."""
    dead = degenerate(sums, "norm")
    return _over_layers(sums.square / torch.where(dead, 1.0, sums.target_square), dead, sums, weights)


def cosine(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    """Σ_l Q_l (1 - cos_l)."""
    dead = degenerate(sums, "norm")
    return _over_layers(0.5 * unit_difference(sums, dead), dead, sums, weights)


def l1(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    """Σ_l Q_l Σ |d|."""
    return (sums.absolute if weights is None else sums.absolute * weights).sum(-1)


def tag(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    """Σ_l (Σ d² + c Q_l Σ |d|)."""
    absolute = sums.absolute if weights is None else sums.absolute * weights
    return (sums.square + l1_weight * absolute).sum(-1)


def value_and_coefficients(
    value: Callable[[GradientSums], Tensor], difference: Tensor, target: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """D and the coefficients of V, of a distance given as a function of its sums.

    Parameters
    ----------
    value : callable
        ``GradientSums -> D [R]``, float64, differentiable.
    difference : Tensor
        The six sums of the candidate, float64 ``[R, L, 6]``.
    target : Tensor
        The three sums of the target, float64 ``[R or 1, L, 3]``.
    size : Tensor
        Elements of each layer, float64 ``[L]``.

    Returns
    -------
    tuple of Tensor
        D ``[R]`` and (α, β, ε, γ, δ) ``[R, L, 5]``, both float64.

    Raises
    ------
    ValueError
        If the function returns another shape.
    """
    with torch.enable_grad():
        leaf = difference.detach().requires_grad_()
        distance = value(GradientSums.from_columns(leaf, target.detach(), size))
        if distance.shape != difference.shape[:1]:
            raise ValueError(
                f"distance: its function of sums must return shape {tuple(difference.shape[:1])}, "
                f"found {tuple(distance.shape)}"
            )
        (slope,) = torch.autograd.grad(distance.sum(), leaf)
    plain, square, cross, dummy_square, inner, absolute = slope.unbind(-1)
    return distance.detach(), torch.stack([2 * square, cross + inner, 2 * dummy_square, plain, absolute], -1)
