"""The distances as one writes them in PyTorch, in the gradients' own precision: the yardstick of errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.reliability.tables.expected import TableFacts
from benchmarks.reliability.tables.truth import DEFINITIONS


def eager(facts: TableFacts, kind: str, recovery: int) -> tuple[float, list[np.ndarray]]:
    """D, and V by layer ``[n]``, of one recovery, by autograd: float32, or float64 of float64 gradients."""
    definition, options = DEFINITIONS[kind], facts.options(kind)
    first = next(t for t in facts.table.dummy if t is not None)
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    layers = facts.layers(definition.merged)
    weights = _row(options.get("layer_weights"), recovery, len(layers))
    if weights is None and definition.own_weights:
        weights = [float(q) for q in definition.own_weights(len(layers))]
    variances = _row(options.get("variance"), recovery, len(layers))
    bandwidth = float(options.get("bandwidth", definition.bandwidth) or 1.0)  # type: ignore[arg-type]
    total, slopes = 0.0, []
    for at, layer in enumerate(layers):
        a = torch.from_numpy(layer.dummy[recovery].astype(np.float64)).to(dtype).requires_grad_()
        g = torch.from_numpy(layer.target[recovery].astype(np.float64)).to(dtype)
        if not a.numel():
            slopes.append(np.zeros(0))
            continue
        variance = g.var(correction=0) if variances is None else torch.tensor(variances[at], dtype=dtype)
        value = _layer(kind, a, g, variance, bandwidth)
        weight = 1.0 if weights is None else weights[at]
        if definition.absolute:
            value = value + float(options.get("l1_weight", 0.01)) * weight * (a - g).abs().sum()  # type: ignore[arg-type]
        else:
            value = value * weight
        (slope,) = torch.autograd.grad(value, a, allow_unused=True)
        slopes.append(np.zeros(a.shape) if slope is None else slope.double().numpy())
        total += float(value.detach()) if np.isfinite(float(value.detach())) else 0.0
    return total, slopes


def _layer(kind: str, a: Tensor, g: Tensor, variance: Tensor, bandwidth: float) -> Tensor:
    d = a - g
    apart = a / a.norm() - g / g.norm()
    match kind:
        case "sapag":
            return 1 - torch.exp(-apart.square().mean() / (2 * bandwidth * variance / g.norm().square()))
        case "sapag-mean":
            return 1 - torch.exp(-d.square().mean() / (2 * bandwidth * variance))
        case "sapag-sum":
            return 1 - torch.exp(-d.square().sum() / (2 * bandwidth * variance))
        case "sapag-global":
            return 1 - torch.exp(-apart.square().sum() / (2 * bandwidth))
        case "cosine" | "layer-cosine":
            return 0.5 * apart.square().sum()
        case "l2-normalized":
            return d.square().sum() / g.square().sum()
        case "l1":
            return d.abs().sum()
        case "reliability-own":
            return torch.log1p(d.square().sum()) + (a @ g).abs() / (1 + g.square().sum())
        case _:
            return d.square().sum()


def _row(given: object, recovery: int, layers: int) -> Sequence[float] | None:
    if not isinstance(given, Tensor):
        return None
    return (given if given.dim() == 1 else given[recovery % len(given)]).tolist()
