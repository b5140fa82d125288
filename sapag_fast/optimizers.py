"""Optimisers over many independent recoveries at once: variables ``[R, N]``, one history per recovery.

Nothing here reads a value back to the host, so a step costs a fixed, small number of launches whatever R is,
and a recovery whose numbers turn bad changes no other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["LBFGS", "Adam", "Optimizer"]


class Optimizer(Protocol):
    """Turns gradients into steps; keeps whatever it needs to remember."""

    def step(self, gradient: Tensor) -> Tensor:
        """The change to add to the variables, ``[R, N]``, given the gradient ``[R, N]`` at the present ones.

        The caller must apply the whole change before the next call.
        """


class LBFGS:
    """Batched L-BFGS with the semantics of ``torch.optim.LBFGS`` without line search and with its tolerances
    off.

    First step along -g with length min(1, 1/‖g‖₁)·lr, later steps H g with rate lr, H from the last `history`
    pairs (s, y) with initial scale sᵀy / yᵀy; a pair with sᵀy ≤ 1e-10 is skipped, for its recovery alone.

    The inverse Hessian is applied in compact form (Byrd, Nocedal, Schnabel 1994, theorem 2.2). With R the
    upper triangle of SᵀY in order of age and D its diagonal,

        a = R⁻¹ Sᵀg      q = g - Y a      b = R⁻ᵀ (D a - γ Yᵀq)      H g = γ q + S b

    which is the two-loop recursion with its 2·history dependent dot products gathered into four batched
    matrix-vector products. R⁻¹ itself is kept, in float64: appending a pair adds the column (-R⁻¹ Sᵀy / sᵀy,
    1 / sᵀy), dropping the oldest pair removes its row and column, and neither depends on where in the ring a
    pair is stored. So each recovery may have its own number of pairs without any sorting.

    Parameters
    ----------
    recoveries, size : int
        R and N.
    history : int
        Pairs kept for each recovery.
    lr : float
        Step length.

    Raises
    ------
    ValueError
        When `history` is not positive.
    """

    curvature_floor = 1e-10

    def __init__(
        self,
        recoveries: int,
        size: int,
        *,
        lr: float = 1.0,
        history: int = 100,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if history < 1:
            raise ValueError(f"history must be at least 1, found {history}")
        self.lr = lr
        self.history = history
        # Each ring has one row more than it needs: a skipped pair is written there, and never read.
        rows = history + 1
        wide = {"device": device, "dtype": torch.float64}
        self._steps = torch.zeros(recoveries, rows, size, device=device, dtype=dtype)
        self._changes = torch.zeros_like(self._steps)
        self._inverse = torch.zeros(recoveries, rows, rows, **wide)
        self._curvature = torch.zeros(recoveries, rows, **wide)
        self.steps, self.changes = self._steps[:, :history], self._changes[:, :history]  # S, Y
        self.inverse, self.curvature = (
            self._inverse[:, :history, :history],
            self._curvature[:, :history],
        )  # R⁻¹, D
        self.scale = torch.ones(recoveries, 1, **wide)  # γ
        self.slot = torch.zeros(recoveries, dtype=torch.long, device=device)
        self.rows = torch.arange(recoveries, device=device)
        self.previous: tuple[Tensor, Tensor] | None = None  # (step, gradient) of the last call

    def step(self, gradient: Tensor) -> Tensor:
        if self.previous is None:
            length = gradient.abs().sum(1, keepdim=True).reciprocal().clamp(max=1.0) * self.lr
            step = -gradient * length
        else:
            step = self._direction(gradient, *self.previous).mul_(-self.lr)
        self.previous = step, gradient.clone()
        return step

    def _direction(self, gradient: Tensor, step: Tensor, previous_gradient: Tensor) -> Tensor:
        dtype, row = gradient.dtype, self.rows
        change = gradient - previous_gradient
        curvature = torch.linalg.vecdot(step, change).double()
        keep = curvature > self.curvature_floor
        slot = torch.where(keep, self.slot, self.history)
        self._steps[row, slot] = step
        self._changes[row, slot] = change
        self._curvature[row, slot] = curvature
        # The oldest pair's row and column go; the new pair's column follows below.
        self._inverse[row, slot] = 0.0
        self._inverse[row, :, slot] = 0.0
        square = torch.linalg.vecdot(change, change)
        self.scale = torch.where(keep[:, None], (curvature / square)[:, None], self.scale)

        # Sᵀ[g, y] in one sweep over S: y's products are the new column of R, g's start the solve.
        products = torch.bmm(torch.stack((gradient, change), 1), self.steps.mT).double()
        solved = torch.bmm(products, self.inverse.mT)
        self._inverse[row, : self.history, slot] = solved[:, 1] / -curvature[:, None]
        self._inverse[row, slot, slot] = curvature.reciprocal()
        newest = torch.linalg.vecdot(step, gradient)[:, None] * self._inverse[row, : self.history, slot]
        weights = solved[:, 0] + torch.where(keep[:, None], newest, 0.0)  # a
        self.slot = torch.where(keep, (slot + 1) % self.history, self.slot)

        rest = torch.baddbmm(gradient[:, None], weights[:, None].to(dtype), self.changes, alpha=-1.0)  # q
        pulled = torch.bmm(rest, self.changes.mT)[:, 0]
        inner = self.curvature * weights - self.scale * pulled
        outer = torch.bmm(inner[:, None], self.inverse)  # b
        return torch.baddbmm(rest.mul_(self.scale[:, :, None].to(dtype)), outer.to(dtype), self.steps)[:, 0]


class Adam:
    """Batched Adam (Kingma, Ba 2015), optionally on the signs of the gradient, with a step-decay schedule.

    Parameters
    ----------
    recoveries, size : int
        R and N.
    signed : bool
        Feed sign(g) instead of g, as Geiping et al. (2020) do for ReLU networks.
    milestones : sequence of int
        Calls after which the rate is multiplied by `decay`.
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
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.lr, self.signed, self.betas, self.eps = lr, signed, betas, eps
        self.milestones, self.decay = frozenset(milestones), decay
        self.mean = torch.zeros(recoveries, size, device=device, dtype=dtype)
        self.square = torch.zeros_like(self.mean)
        self.calls = 0

    def step(self, gradient: Tensor) -> Tensor:
        self.calls += 1
        if self.signed:
            gradient = gradient.sign()
        first, second = self.betas
        self.mean.lerp_(gradient, 1.0 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        rate = self.lr / (1.0 - first**self.calls)
        deviation = (self.square / (1.0 - second**self.calls)).sqrt_().add_(self.eps)
        if self.calls in self.milestones:
            self.lr *= self.decay
        return (self.mean / deviation).mul_(-rate)
