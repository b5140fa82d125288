"""Batched Adam, and Adam on the signs of the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.search.optimizers.compiled import adam_step, choose_backend
from sapag_fast.search.optimizers.optimizer import Optimizer
from sapag_fast.search.optimizers.rows import Rows

__all__ = ["Adam", "Schedule"]

_FIRST, _SECOND = 0.9, 0.999  # decay of the two moments
_DECAY = 0.1  # of the step length at each milestone


@dataclass(frozen=True)
class Schedule:
    """Adam's step length, and how it falls with a recovery's own calls.

    Attributes
    ----------
    lr : float
        Step length at the first call.
    milestones : tuple of int
        Calls after which the length falls to a tenth.
    cosine : int, optional
        The length falls as half a cosine too, to zero after this number of calls.

    Raises
    ------
    ValueError
        When `cosine` is not positive.
    """

    lr: float = 0.1
    milestones: tuple[int, ...] = ()
    cosine: int | None = None

    def __post_init__(self) -> None:
        if self.cosine is not None and self.cosine < 1:
            raise ValueError(f"cosine: expected at least 1 call or None, found {self.cosine}")


class Adam(Optimizer):
    """Batched Adam (Kingma, Ba 2015), optionally on the signs of the gradient.

    Every recovery counts its own calls: bias correction and schedule of one that was restarted begin anew.

    Parameters
    ----------
    recoveries, size : int
        R and N.
    schedule : Schedule, optional
        Step length; None: 0.1 throughout.
    signed : bool
        Feed sign(g) instead of g, as Geiping et al. (2020) do for ReLU networks.
    eps : float
        Added to the second moment's root.
    backend : str, optional
        ``compiled`` (one sweep over memory in C++) or ``torch``; chosen by device when None.

    Raises
    ------
    ValueError
        For an unknown or unfit backend, or another dtype than float32 and float64.
    """

    def __init__(
        self,
        recoveries: int,
        size: int,
        schedule: Schedule | None = None,
        *,
        signed: bool = False,
        eps: float = 1e-8,
        backend: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.backend = choose_backend(backend, device, dtype)
        schedule = schedule or Schedule()
        self.lr, self.cosine = schedule.lr, schedule.cosine
        self.milestones = sorted(set(schedule.milestones))
        self.signed, self.eps = signed, eps
        super().__init__(Rows(recoveries, device), size, dtype)
        self._rows.add("mean", (size,), dtype)
        self._rows.add("square", (size,), dtype)
        self._rows.add("calls", (), torch.int64)

    def step(self, gradient: Tensor, objective: Tensor | None = None) -> Tensor:
        """Compute the change to add to the variables.

        Parameters
        ----------
        gradient : Tensor
            ``[R, N]``, at the present variables.
        objective : Tensor, optional
            Not read.

        Returns
        -------
        Tensor
            ``[R, N]``.

        Raises
        ------
        ValueError
            For a gradient of another shape, dtype or device.
        """
        self._check(gradient)
        rows = self._rows
        mean, square, calls = rows["mean"], rows["square"], rows["calls"]
        if self.backend == "compiled":
            options = (self.lr, self.milestones, _DECAY, _FIRST, _SECOND, self.eps, self.signed)
            change = adam_step(gradient, mean, square, calls, *options)
            return self._slowed(change)
        calls += 1
        count = calls.double()[:, None]
        rate = torch.full_like(count, self.lr)
        for milestone in self.milestones:
            if milestone > 0:
                rate = torch.where(count > milestone, rate * _DECAY, rate)
        if self.signed:
            gradient = gradient.sign()
        mean.lerp_(gradient, 1.0 - _FIRST)
        square.mul_(_SECOND).addcmul_(gradient, gradient, value=1.0 - _SECOND)
        deviation = (square / (1.0 - _SECOND**count).to(square.dtype)).sqrt_().add_(self.eps)
        return self._slowed((mean / deviation).mul_((-rate / (1.0 - _FIRST**count)).to(mean.dtype)))

    def _slowed(self, change: Tensor) -> Tensor:
        """`change` ``[R, N]`` at the rate that the cosine schedule has left, in place."""
        if self.cosine is None:
            return change
        done = ((self._rows["calls"] - 1).double() / self.cosine).clamp(max=1.0)
        left = 0.5 * (1.0 + (math.pi * done).cos())
        return change.mul_(left[:, None].to(change.dtype))
