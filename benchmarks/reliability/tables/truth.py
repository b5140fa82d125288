"""The distances by their definitions, in long double: D, V, and what rounding may cost each.

A layer carries no weight where its distance is not defined (docs/mathematics.md): without elements, of a zero
target, of a norm below 1e-6 of the whole gradient's, and for the Gaussian kernels of one element, or of a
variance below 1e-12 of the mean square. Within a thousandth of such a bound either answer is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.reliability.tables.facts import Facts, Real

TINY_NORM = Real(1e-12)  # of squares
TINY_VARIANCE = Real(1e-12)
LEAST = Real(2.0**-1022)  # what is smaller has fewer digits, or none
SUMS = Real(1e-13)  # relative, of sums in double precision
DIRECTIONS = Real(4e-13)  # absolute, of 2 - 2cos from such sums


@dataclass
class Share:
    """What one layer adds to D, ``[R]``, and its part of V, ``[R, n]``, with the error that is granted."""

    value: np.ndarray
    value_error: np.ndarray
    slope: np.ndarray
    terms: np.ndarray
    """Size of the terms that V is put together from: rounding is measured by them."""
    relative: np.ndarray
    """Relative error of V beside the rounding of its arithmetic, ``[R, 1]``."""
    floor: np.ndarray | float = 0.0
    """Absolute error of V where it is formed from u' - u in double precision, ``[R, 1]``."""
    value_floor: np.ndarray | float = 0.0
    """The same of D, ``[R]``."""
    lost: np.ndarray | float = 0.0
    """Absolute error of V where exp(-z) is below what double precision holds, ``[R, n]``."""


@dataclass
class Settings:
    bandwidth: float
    l1_weight: float


Formula = Callable[[Facts, Settings], Share]


def _kernel(z: np.ndarray, error: np.ndarray, slope: np.ndarray, terms: np.ndarray) -> Share:
    """1 - exp(-z), with ``slope`` and ``terms`` of ∂z/∂g' and the error of z."""
    falling = np.exp(-z)
    relative = (error + SUMS)[:, None]
    share = Share(
        -np.expm1(-z), error * falling, slope * falling[:, None], terms * falling[:, None], relative
    )
    share.lost = LEAST * terms
    return share


def _plain(value: np.ndarray, slope: np.ndarray) -> Share:
    return Share(value, SUMS * value, slope, np.abs(slope), np.full((len(value), 1), SUMS))


def _direction_error(f: Facts) -> np.ndarray:
    return np.where(f.near, SUMS * (f.unit_square + _safe(f.square, f.target_square)), DIRECTIONS)


def _safe(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return top / np.where(bottom == 0, 1, bottom)


def sapag(f: Facts, s: Settings) -> Share:
    """z = mean((u' - u)²) / (2 s Var(u))."""
    slope = _safe(f.target_square, 2 * Real(s.bandwidth) * f.deviation)
    z = f.unit_square * slope
    error = _direction_error(f) * slope + z * (SUMS + f.deviation_error)
    share = _kernel(z, error, f.unit_gradient * slope[:, None], f.unit_terms * slope[:, None])
    share.floor = f.unit_floor * slope[:, None]
    share.value_floor = f.unit_square_floor * slope
    return _relatively(f, share)


def _of_difference(f: Facts, slope: np.ndarray) -> Share:
    z = f.square * slope
    gradient = 2 * f.d * slope[:, None]
    return _relatively(f, _kernel(z, z * (SUMS + f.deviation_error), gradient, np.abs(gradient)))


def _relatively(f: Facts, share: Share) -> Share:
    """An error of the variance is one of V's size, too."""
    share.relative = share.relative + f.deviation_error[:, None]
    return share


def sapag_mean(f: Facts, s: Settings) -> Share:
    """z = mean(d²) / (2 s Var(g))."""
    return _of_difference(f, _safe(np.ones_like(f.deviation), 2 * Real(s.bandwidth) * f.deviation))


def sapag_sum(f: Facts, s: Settings) -> Share:
    """z = Σ d² / (2 s Var(g))."""
    return _of_difference(f, _safe(np.full_like(f.deviation, f.n), 2 * Real(s.bandwidth) * f.deviation))


def sapag_global(f: Facts, s: Settings) -> Share:
    """1 - exp(-‖u' - u‖² / (2 s))."""
    slope = 1 / (2 * Real(s.bandwidth))
    error = _direction_error(f) * slope
    share = _kernel(f.unit_square * slope, error, f.unit_gradient * slope, f.unit_terms * slope)
    share.floor = f.unit_floor * slope
    share.value_floor = f.unit_square_floor * slope
    return share


def cosine(f: Facts, s: Settings) -> Share:
    """1 - cos = ‖u' - u‖² / 2."""
    share = _plain(f.unit_square / 2, f.unit_gradient / 2)
    share.value_error, share.terms = _direction_error(f) / 2, f.unit_terms / 2
    share.floor = f.unit_floor
    share.value_floor = f.unit_square_floor / 2
    return share


def l2(f: Facts, s: Settings) -> Share:
    return _plain(f.square, 2 * f.d)


def l2_normalized(f: Facts, s: Settings) -> Share:
    safe = np.where(f.target_square == 0, 1, f.target_square)
    return _plain(f.square / safe, 2 * f.d / safe[:, None])


def l1(f: Facts, s: Settings) -> Share:
    return _plain(f.absolute, f.sign)


def log_of_squares(f: Facts, s: Settings) -> Share:
    """A distance of one's own, which the suite registers: log(1 + Σ d²) + |Σ g'·g| / (1 + Σ g²)."""
    outer = 1 / (1 + f.square)
    scale = 1 / (1 + f.target_square)
    slope = 2 * f.d * outer[:, None] + f.target * (np.sign(f.inner) * scale)[:, None]
    terms = np.abs(2 * f.d * outer[:, None]) + np.abs(f.target * scale[:, None])
    value = np.log1p(f.square) + np.abs(f.inner) * scale
    slack = SUMS * np.sqrt(f.dummy_square * f.target_square) * scale
    return Share(value, SUMS * value + slack, slope, terms, np.full((len(value), 1), SUMS))


@dataclass(frozen=True)
class Definition:
    """A kind of distance: its formula, whether all tensors form one layer, and what a layer must have."""

    formula: Formula
    merged: bool = False
    needs: str = ""
    bandwidth: float | None = None
    """The default s of a Gaussian kernel; None: it has none."""
    weighted: bool = True
    takes_variance: bool = False
    own_weights: Callable[[int], np.ndarray] | None = None
    absolute: bool = False
    """Adds c Q Σ|d|, and its weights weigh that alone."""


def falling(layers: int) -> np.ndarray:
    return 1 / np.arange(1, layers + 1, dtype=Real)


DEFINITIONS = {
    "sapag": Definition(sapag, needs="variance", bandwidth=1.0, takes_variance=True),
    "sapag-mean": Definition(
        sapag_mean, needs="variance", bandwidth=1.0, takes_variance=True, own_weights=falling
    ),
    "sapag-sum": Definition(sapag_sum, needs="variance", bandwidth=1.0, takes_variance=True),
    "sapag-global": Definition(sapag_global, merged=True, needs="norm", bandwidth=0.05, weighted=False),
    "l2": Definition(l2),
    "l2-normalized": Definition(l2_normalized, merged=True, needs="norm", weighted=False),
    "cosine": Definition(cosine, merged=True, needs="norm", weighted=False),
    "layer-cosine": Definition(cosine, needs="norm"),
    "l1": Definition(l1),
    "tag": Definition(l2, absolute=True),
    "reliability-own": Definition(log_of_squares, weighted=False),
}


def degenerate(layers: list[Facts], needs: str) -> tuple[np.ndarray, np.ndarray]:
    """``[R, L]``: layers that carry no weight, and those so near a bound that both answers are right."""
    rows = len(layers[0].target)
    dead = np.zeros((rows, len(layers)), bool)
    close = np.zeros((rows, len(layers)), bool)
    if not needs:
        return dead, close
    whole = sum((f.target_square for f in layers), np.zeros(rows, Real))
    for at, f in enumerate(layers):
        tests = [(f.target_square, TINY_NORM * whole)]
        dead[:, at] = (f.target_square == 0) | (f.n < 1)
        if needs == "variance":
            tests.append((f.deviation, TINY_VARIANCE * f.target_square))
            dead[:, at] |= (f.n <= 1) | (f.deviation <= 0)
        for value, bound in tests:
            margin = 1e-3 * bound + (f.deviation_error * f.deviation if value is f.deviation else 0)
            close[:, at] |= ~dead[:, at] & (np.abs(value - bound) <= margin)
            dead[:, at] |= value <= bound
    return dead, close & ~np.array([f.n <= 1 for f in layers])
