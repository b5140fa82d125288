"""Every distance and its gradient by definition, in long double: numbers from 1e-4900 to 1e4900, 19 digits.

Element by element, without sums that kernels take and without autograd; nothing is shared with the package.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

Real = np.longdouble
VARIANCE_KINDS = ("sapag", "sapag-mean", "sapag-sum")
MERGED = ("sapag-global", "l2-normalized", "cosine")


class Numbers(NamedTuple):
    """What a distance is told: its own defaults are the package's."""

    bandwidth: float = 1.0
    l1_weight: float = 0.01
    weights: Sequence[float] | None = None


def plain_distance(
    dummy: Sequence[torch.Tensor],
    target: Sequence[torch.Tensor],
    kind: str,
    layer_of: Sequence[int],
    numbers: Numbers | None = None,
) -> tuple[Real, list[np.ndarray]]:
    """D and V, shaped like ``dummy``, of one recovery."""
    if numbers is None:
        numbers = Numbers(bandwidth=0.05 if kind == "sapag-global" else 1.0)
    rows = [_flat(t) for t in dummy], [_flat(t) for t in target]
    if kind in MERGED:
        layer_of = [0] * len(rows[0])
    layers = max(layer_of) + 1
    weights = numbers.weights
    if weights is None:
        weights = [1 / Real(i + 1) if kind == "sapag-mean" else Real(1) for i in range(layers)]
    whole = sum((np.sum(g * g) for g in rows[1]), Real(0))
    value, slopes = Real(0), [np.zeros_like(a) for a in rows[0]]
    for layer in range(layers):
        members = [i for i, of in enumerate(layer_of) if of == layer]
        if not members:
            continue
        a, g = (np.concatenate([side[i] for i in members]) for side in rows)
        if _dead(kind, g, whole):
            continue
        share, slope = _layer(kind, a, g, numbers, Real(weights[layer]))
        value += share
        ends = np.cumsum([rows[0][i].size for i in members])[:-1]
        for i, part in zip(members, np.split(slope, ends), strict=True):
            slopes[i] = part
    return value, [v.reshape(tuple(t.shape)) for v, t in zip(slopes, dummy, strict=True)]


def layers_of(kind: str, layer_of: Sequence[int]) -> Sequence[int] | None:
    """What the package takes as ``layers``: nothing for kinds that see the whole gradient as one."""
    return None if kind in MERGED else layer_of


def _flat(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().contiguous().numpy().reshape(-1).astype(Real)


def _dead(kind: str, g: np.ndarray, whole: Real) -> bool:
    if kind in ("l2", "l1", "tag"):
        return False
    square = np.sum(g * g)
    if g.size == 0 or square <= Real(1e-12) * whole:
        return True
    return kind in VARIANCE_KINDS and (g.size == 1 or _deviation(g) <= Real(1e-12) * square)


def _deviation(g: np.ndarray) -> Real:
    return np.sum((g - np.sum(g) / g.size) ** 2)


def _layer(
    kind: str, a: np.ndarray, g: np.ndarray, numbers: Numbers, weight: Real
) -> tuple[Real, np.ndarray]:
    d = a - g
    spread = 2 * Real(numbers.bandwidth)
    match kind:
        case "l2":
            return weight * np.sum(d * d), 2 * weight * d
        case "l1":
            return weight * np.sum(np.abs(d)), weight * np.sign(d)
        case "tag":
            bend = Real(numbers.l1_weight) * weight
            return np.sum(d * d) + bend * np.sum(np.abs(d)), 2 * d + bend * np.sign(d)
        case "l2-normalized":
            square = np.sum(g * g)
            return np.sum(d * d) / square, 2 * (d / square)
        case "sapag-mean" | "sapag-sum":
            width = spread * _deviation(g) / (g.size if kind == "sapag-sum" else 1)
            z = np.sum(d * d) / width
            return -weight * np.expm1(-z), weight * np.exp(-z) * 2 * (d / width)
    part, slope = _angle(a, g)
    if kind == "sapag":
        factor = np.sum(g * g) / (spread * _deviation(g))
    elif kind == "sapag-global":
        factor = 1 / spread
    else:
        return weight * part / 2, weight * slope / 2
    return -weight * np.expm1(-part * factor), weight * np.exp(-part * factor) * factor * slope


def _angle(a: np.ndarray, g: np.ndarray) -> tuple[Real, np.ndarray]:
    """‖u' - u‖² and its gradient; 1 and 0 for a candidate of zeros."""
    size = np.sqrt(np.sum(a * a))
    if size == 0:
        return Real(1), np.zeros_like(a)
    mine, theirs = a / size, g / np.sqrt(np.sum(g * g))
    gap = mine - theirs
    return np.sum(gap * gap), 2 / size * (gap - np.sum(gap * mine) * mine)
