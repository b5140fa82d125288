"""Batched Adam, and Adam on the signs of the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sapag_fast.search.optimizers.compiled import adam_step, choose_backend
from sapag_fast.search.optimizers.optimizer import Optimizer
from sapag_fast.search.optimizers.rows import Rows

__all__ = ["Adam"]


class Adam(Optimizer):
    """Batched Adam (Kingma, Ba 2015), optionally on the signs of the gradient, with a step-decay schedule.

    Every recovery counts its own calls: bias correction and schedule of one that was restarted begin anew.

    Parameters
    ----------
    recoveries, size : int
        R and N.
    lr : float
        Step length.
    signed : bool
        Feed sign(g) instead of g, as Geiping et al. (2020) do for ReLU networks.
    milestones : sequence of int
        A recovery's calls after which its rate is multiplied by `decay`.
    betas : pair of float
        Decay of the two moments.
    eps : float
        Added to the second moment's root.
    cosine : int, optional
        The rate falls as half a cosine, to zero after this number of a recovery's calls.
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
        *,
        lr: float = 0.1,
        signed: bool = False,
        milestones: Sequence[int] = (),
        decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        cosine: int | None = None,
        backend: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.backend = choose_backend(backend, device, dtype)
        self.lr, self.signed, self.betas, self.eps = lr, signed, betas, eps
        self.milestones, self.decay = sorted(set(milestones)), decay
        self.cosine = cosine
        super().__init__(Rows(recoveries, device), size, dtype)
        self._rows.add("mean", (size,), dtype)
        self._rows.add("square", (size,), dtype)
        self._rows.add("calls", (), torch.int64)

    def step(self, gradient: Tensor, objective: Tensor | None = None) -> Tensor:
        """The change for the gradient ``[R, N]``; `objective` is not looked at."""
        self._check(gradient)
        rows, (first, second) = self._rows, self.betas
        mean, square, calls = rows["mean"], rows["square"], rows["calls"]
        if self.backend == "compiled":
            schedule = (self.lr, self.milestones, self.decay)
            change = adam_step(gradient, mean, square, calls, *schedule, first, second, self.eps, self.signed)
            return self._slowed(change)
        calls += 1
        count = calls.double()[:, None]
        rate = torch.full_like(count, self.lr)
        for milestone in self.milestones:
            if milestone > 0:
                rate = torch.where(count > milestone, rate * self.decay, rate)
        if self.signed:
            gradient = gradient.sign()
        mean.lerp_(gradient, 1.0 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        deviation = (square / (1.0 - second**count).to(square.dtype)).sqrt_().add_(self.eps)
        return self._slowed((mean / deviation).mul_((-rate / (1.0 - first**count)).to(mean.dtype)))

    def _slowed(self, change: Tensor) -> Tensor:
        """`change` ``[R, N]`` at the rate that the cosine schedule has left, in place."""
        if self.cosine is None:
            return change
        done = ((self._rows["calls"] - 1).double() / self.cosine).clamp(max=1.0)
        left = 0.5 * (1.0 + (math.pi * done).cos())
        return change.mul_(left[:, None].to(change.dtype))
