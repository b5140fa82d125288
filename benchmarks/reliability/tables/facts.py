"""What is known of one layer of both gradients, in long double: sums, and the difference of the directions.

Written from the definitions, with d = g' - g, a = ‖g'‖, b = ‖g‖, u' = g'/a, u = g/b; nothing here is imported
from the package. Arrays are ``[R, n]``, sums ``[R]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Real = np.longdouble
UNIT_ROUNDING = Real(16 * 2.0**-53)
"""Of a direction that is formed in double precision: of its norm, and of its elements."""


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
    def _unit_pair(self) -> tuple[np.ndarray, np.ndarray]:
        """The two terms whose difference, by 2/(a b), is ∂‖u' - u‖²/∂g'.

        (g'·g/a²) g' - g, and with d in place of g' where that is small: (g'·g/a²) d - (d·g'/a²) g.
        """
        near, squares = self.near[:, None], self.dummy_square
        along = _over(np.where(near, self.d, self.dummy) * self.inner[:, None], squares)
        moved = (self.d * self.dummy).sum(1)
        return along, np.where(near, _over(self.target * moved[:, None], squares), self.target)

    @cached_property
    def _unit_scale(self) -> np.ndarray:
        a, b = np.sqrt(self.dummy_square), np.sqrt(self.target_square)
        return 2 * _over(np.ones_like(a), a * b)[:, None]

    @cached_property
    def unit_gradient(self) -> np.ndarray:
        """∂‖u' - u‖²/∂g'; 0 where g' = 0."""
        along, across = self._unit_pair
        return self._unit_scale * (along - across)

    @cached_property
    def unit_terms(self) -> np.ndarray:
        """Size of the terms that it is a difference of."""
        along, across = self._unit_pair
        return self._unit_scale * (np.abs(along) + np.abs(across))

    @cached_property
    def unit_floor(self) -> np.ndarray:
        """What rounding u' and u in double precision does to it, ``[R, 1]``."""
        a = np.sqrt(self.dummy_square)
        return UNIT_ROUNDING * _over(np.ones_like(a), a)[:, None]

    @cached_property
    def unit_square_floor(self) -> np.ndarray:
        """What the same rounding does to ‖u' - u‖², ``[R]``."""
        return UNIT_ROUNDING * (2 * np.sqrt(self.unit_square) + UNIT_ROUNDING)


def _over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, and 0 where bottom is."""
    whole = bottom if top.ndim == bottom.ndim else bottom[:, None]
    return np.where(whole == 0, 0, top / np.where(whole == 0, 1, whole))
