"""What is known of one layer of both gradients, in long double: sums, and the difference of the directions.

Written from the definitions, with d = g' - g, a = ‖g'‖, b = ‖g‖, u' = g'/a, u = g/b; nothing here is imported
from the package. Arrays are ``[R, n]``, sums ``[R]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Real = np.longdouble


@dataclass
class Facts:
    """One layer. ``broken`` tells which recoveries hold a number that is none; there, it is replaced by 0."""

    dummy: np.ndarray
    target: np.ndarray
    broken: np.ndarray
    given_variance: np.ndarray | None = None

    @property
    def n(self) -> int:
        return self.dummy.shape[1]

    @cached_property
    def d(self) -> np.ndarray:
        return self.dummy - self.target

    @cached_property
    def square(self) -> np.ndarray:
        return (self.d * self.d).sum(1)

    @cached_property
    def absolute(self) -> np.ndarray:
        return np.abs(self.d).sum(1)

    @cached_property
    def sign(self) -> np.ndarray:
        return np.sign(self.d)

    @cached_property
    def cross(self) -> np.ndarray:
        return (self.d * self.target).sum(1)

    @cached_property
    def inner(self) -> np.ndarray:
        return (self.dummy * self.target).sum(1)

    @cached_property
    def dummy_square(self) -> np.ndarray:
        return (self.dummy * self.dummy).sum(1)

    @cached_property
    def target_square(self) -> np.ndarray:
        return (self.target * self.target).sum(1)

    @cached_property
    def deviation(self) -> np.ndarray:
        """n times the biased variance."""
        if self.given_variance is not None:
            return self.given_variance * self.n
        if not self.n:
            return np.zeros(len(self.target), Real)
        apart = self.target - self.target.sum(1, keepdims=True) / self.n
        return (apart * apart).sum(1)

    @cached_property
    def deviation_error(self) -> np.ndarray:
        """Relative, of deviations that are summed in double precision about a mean that is rounded."""
        if self.given_variance is not None:
            return np.zeros(len(self.target), Real)
        return Real(2e-15) * _over(self.target_square, self.deviation)

    @cached_property
    def near(self) -> np.ndarray:
        """Where differences keep more digits than directions."""
        return self.square < self.target_square / 4

    @cached_property
    def direction(self) -> np.ndarray:
        """u' - u; -u for g' = 0."""
        a, b = np.sqrt(self.dummy_square), np.sqrt(self.target_square)
        longer = _over(self.square + 2 * self.cross, a + b)  # a - b
        near = _over(self.d, a) - self.target * _over(longer, a * b)[:, None]
        return np.where(self.near[:, None], near, _over(self.dummy, a) - _over(self.target, b))

    @cached_property
    def unit_square(self) -> np.ndarray:
        """‖u' - u‖²: 1 where g' = 0, which has no direction."""
        return (self.direction * self.direction).sum(1)

    @cached_property
    def unit_gradient(self) -> np.ndarray:
        """∂‖u' - u‖²/∂g' = 2/a (e - (e·u') u') with e = u' - u and e·u' = ‖e‖²/2; 0 where g' = 0."""
        a = np.sqrt(self.dummy_square)
        along = self.unit_square / 2
        return 2 * _over(self.direction - along[:, None] * _over(self.dummy, a), a)

    @cached_property
    def unit_terms(self) -> np.ndarray:
        """Size of the terms that ∂‖u' - u‖²/∂g' is a difference of, in whatever way it is put together."""
        a, b = np.sqrt(self.dummy_square), np.sqrt(self.target_square)
        outer = 2 * _over(np.ones_like(a), a * b)
        near = np.abs(_over(self.d * self.inner[:, None], self.dummy_square)) + np.abs(
            _over(self.target * (self.cross + self.square)[:, None], self.dummy_square)
        )
        far = np.abs(self.target) + np.abs(_over(self.dummy * self.inner[:, None], self.dummy_square))
        return outer[:, None] * np.where(self.near[:, None], near, far)


def _over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, and 0 where bottom is."""
    whole = bottom if top.ndim == bottom.ndim else bottom[:, None]
    return np.where(whole == 0, 0, top / np.where(whole == 0, 1, whole))
