"""The distances written out as their papers do, in float64.

The oracle of the tests and a backend for devices that have no kernels. Nothing here shares a formula with
`sapag_fast.distances.formulas`: gradients are normalised element by element and V comes from autograd.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sapag_fast.distances.formulas import RELATIVE_NORM_FLOOR, RELATIVE_VARIANCE_FLOOR, gaussian
from sapag_fast.distances.layering import Layering, rows_of
from sapag_fast.distances.operators import Options


def _layers(tensors: Sequence[Tensor], layering: Layering, batched: bool) -> list[Tensor]:
    """One float64 [R, n] matrix a layer."""
    rows = [rows_of(t, batched).double() for t in tensors]
    members: list[list[Tensor]] = [[] for _ in range(layering.layers)]
    for row, layer in zip(rows, layering.layer_of, strict=True):
        members[layer].append(row)
    return [torch.cat(m, 1) if m else rows[0].new_zeros(rows[0].shape[0], 0) for m in members]


def _unit(g: Tensor) -> Tensor:
    """Each row divided by its norm; a zero row stays zero, with a zero derivative."""
    norm = torch.linalg.vector_norm(g, dim=1, keepdim=True)
    return torch.where(norm == 0, 0.0, g / torch.where(norm == 0, 1.0, norm))


def layer_variance(g: Tensor) -> Tensor:
    """Biased variance of each row of ``[R, n]``, shape ``[R]``; zero for no elements."""
    if g.shape[1] == 0:
        return g.new_zeros(g.shape[0])
    return (g - g.mean(1, keepdim=True)).square().mean(1)


def reference_distance(
    dummy: Sequence[Tensor],
    target: Sequence[Tensor],
    kind: str,
    layering: Layering,
    options: Options,
    *,
    batched: bool,
) -> Tensor:
    """D, differentiable any number of times in ``dummy``.

    Layers without elements, with a zero or relatively tiny target and, for the Gaussian kernels, with one
    element or a constant target carry no weight (``l2``, ``l1`` and ``tag`` divide by nothing and count every
    layer).

    Parameters
    ----------
    dummy, target : sequence of Tensor
        With ``batched``, ``[R, ...]`` and ``[R or 1, ...]``.
    kind : str
        A built-in distance.
    layering : Layering
        Which tensors form a layer.
    options : Options
        Its numbers; weights and variance ``[L]`` or ``[R, L]``.
    batched : bool
        Whether tensors have a leading dimension of recoveries.

    Returns
    -------
    Tensor
        float64 ``[R]``; R = 1 when not batched.

    Raises
    ------
    ValueError
        For another kind.
    """
    _, bandwidth, l1_weight, weights, variance = options
    mine, theirs = _layers(dummy, layering, batched), _layers(target, layering, batched)
    recoveries = mine[0].shape[0]
    squares = torch.stack([g.square().sum(1) for g in theirs], -1)  # pairwise: a norm's own sum rounds more
    norms, whole = squares.sqrt(), squares.sum(1).sqrt()
    total = mine[0].new_zeros(recoveries)
    for layer, (a, g) in enumerate(zip(mine, theirs, strict=True)):
        n = g.shape[1]
        weight = None if weights is None else weights.double()[..., layer]
        if kind == "tag":
            absolute = (a - g).abs().sum(1)
            total = (
                total + (a - g).square().sum(1) + l1_weight * (1.0 if weight is None else weight) * absolute
            )
            continue
        norm, square = norms[:, layer], squares[:, layer]
        var = layer_variance(g) if variance is None else variance.double()[..., layer]
        dead = (norm <= 0) | (norm <= RELATIVE_NORM_FLOOR * whole) | (n < 1)
        if kind in ("sapag", "sapag-mean", "sapag-sum"):
            dead = dead | (n <= 1) | (var * n <= RELATIVE_VARIANCE_FLOOR * square)
        if kind in ("l2", "l1"):
            dead = torch.zeros_like(dead)
        value = _layer_value(
            kind, a, g, torch.where(dead, 1.0, var), torch.where(dead, 1.0, square), bandwidth
        )
        if weight is not None:
            value = value * weight
        broken = ~torch.isfinite((a - g).square().sum(1).detach() + norm)
        total = total + torch.where(broken, torch.nan, torch.where(dead, 0.0, value))
    return total


def _layer_value(
    kind: str, a: Tensor, g: Tensor, variance: Tensor, square: Tensor, bandwidth: float
) -> Tensor:
    """One layer's value ``[R]`` without its weight, from g' and g ``[R, n]``.

    ``variance`` and ``square`` = ‖g‖² are the target's; 1 in layers that carry no weight.
    """
    n = max(g.shape[1], 1)
    d2 = (a - g).square().sum(1)
    unit2 = (_unit(a) - _unit(g)).square().sum(1)
    match kind:
        case "sapag":
            return gaussian((unit2 / n) / (2 * bandwidth * variance / square))
        case "sapag-mean":
            return gaussian((d2 / n) / (2 * bandwidth * variance))
        case "sapag-sum":
            return gaussian(d2 / (2 * bandwidth * variance))
        case "sapag-global":
            return gaussian(unit2 / (2 * bandwidth))
        case "l2":
            return d2
        case "l2-normalized":
            return d2 / square
        case "cosine" | "layer-cosine":
            return 0.5 * unit2
        case "l1":
            return (a - g).abs().sum(1)
        case _:
            raise ValueError(f"kind: the reference has no distance {kind!r}")
