"""The distances written out as their papers do, in float64: the oracle of the tests and a backend for
devices that have no kernels.

Nothing here shares a formula with :mod:`sapag_fast.distances`: gradients are normalised element by element
and V comes from autograd.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sapag_fast.distances.kind import RELATIVE_NORM_FLOOR, RELATIVE_VARIANCE_FLOOR, gaussian
from sapag_fast.distances.layering import Layering


def _layers(tensors: Sequence[Tensor], found: Layering, batched: bool) -> list[Tensor]:
    """One float64 [R, n] matrix a layer."""
    rows = [(t.flatten(1) if batched else t.reshape(1, -1)).double() for t in tensors]
    members: list[list[Tensor]] = [[] for _ in range(found.layers)]
    for row, layer in zip(rows, found.layer_of, strict=True):
        members[layer].append(row)
    return [torch.cat(m, 1) if m else rows[0].new_zeros(rows[0].shape[0], 0) for m in members]


def _unit(g: Tensor) -> Tensor:
    """Each row divided by its norm; a zero row stays zero, with a zero derivative."""
    norm = torch.linalg.vector_norm(g, dim=1, keepdim=True)
    return torch.where(norm == 0, 0.0, g / torch.where(norm == 0, 1.0, norm))


def layer_variance(g: Tensor) -> Tensor:
    """Biased variance of each row of [R, n], [R]; zero for no elements."""
    if g.shape[1] == 0:
        return g.new_zeros(g.shape[0])
    return (g - g.mean(1, keepdim=True)).square().mean(1)


def reference_distance(
    dummy: Sequence[Tensor],
    target: Sequence[Tensor],
    kind: str,
    found: Layering,
    *,
    batched: bool,
    weights: Tensor | None,
    bandwidth: float,
    l1_weight: float,
    variance: Tensor | None,
) -> Tensor:
    """D, float64 [R] (R = 1 when not batched), differentiable any number of times in ``dummy``.

    weights, variance: [L] or [R, L]. Layers without elements, with a zero or relatively tiny target and,
    for the Gaussian kernels, with one element or a constant target carry no weight (``l2``, ``l1`` and
    ``tag`` divide by nothing and count every layer).
    """
    mine, theirs = _layers(dummy, found, batched), _layers(target, found, batched)
    recoveries = mine[0].shape[0]
    norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in theirs], -1)
    whole = torch.linalg.vector_norm(norms, dim=1)
    total = mine[0].new_zeros(recoveries)
    for layer, (a, g) in enumerate(zip(mine, theirs, strict=True)):
        n = g.shape[1]
        var = layer_variance(g) if variance is None else variance.double()[..., layer]
        norm = norms[:, layer]
        dead = (norm <= 0) | (norm <= RELATIVE_NORM_FLOOR * whole) | (n < 1)
        if kind in ("sapag", "sapag-mean", "sapag-sum"):
            dead = dead | (n <= 1) | (var * n <= RELATIVE_VARIANCE_FLOOR * norm**2)
            sigma2 = torch.where(dead, 1.0, var)
        d2 = (a - g).square().sum(1)
        unit2 = (_unit(a) - _unit(g)).square().sum(1)
        match kind:
            case "sapag":
                value = gaussian(
                    (unit2 / max(n, 1)) / (2 * bandwidth * sigma2 / torch.where(dead, 1.0, norm**2))
                )
            case "sapag-mean":
                value = gaussian((d2 / max(n, 1)) / (2 * bandwidth * sigma2))
            case "sapag-sum":
                value = gaussian(d2 / (2 * bandwidth * sigma2))
            case "sapag-global":
                value = gaussian(unit2 / (2 * bandwidth))
            case "l2":
                value, dead = d2, torch.zeros_like(dead)
            case "l2-normalized":
                value = d2 / torch.where(dead, 1.0, norm**2)
            case "cosine" | "layer-cosine":
                value = 0.5 * unit2
            case "l1":
                value, dead = (a - g).abs().sum(1), torch.zeros_like(dead)
            case "tag":
                absolute = (a - g).abs().sum(1)
                weight = 1.0 if weights is None else weights.double()[..., layer]
                total = total + d2 + l1_weight * weight * absolute
                continue
            case _:
                raise ValueError(f"kind: the reference has no distance {kind!r}")
        if weights is not None:
            value = value * weights.double()[..., layer]
        broken = ~torch.isfinite(d2.detach() + norm)
        total = total + torch.where(broken, torch.nan, torch.where(dead, 0.0, value))
    return total
