"""The steps of batched L-BFGS by torch operations, for devices without a kernel of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.search.optimizers.armijo import ADVANCE, FORGET, MOVE, Verdict
from sapag_fast.search.optimizers.rows import Rows

__all__ = ["TorchSteps"]

_CURVATURE_FLOOR = 1e-10


class TorchSteps:
    """The compact form in four batched matrix-vector products, without any readback.

    With R the upper triangle of SᵀY in order of age and D its diagonal,

        a = R⁻¹ Sᵀg      q = g - Y a      b = R⁻ᵀ (D a - γ Yᵀq)      H g = γ q + S b

    R⁻¹ itself is kept, in float64: appending a pair adds the column (-R⁻¹ Sᵀy / sᵀy, 1 / sᵀy), dropping the
    oldest pair removes its row and column, and neither depends on where in the ring a pair is stored. So each
    recovery may have its own number of pairs without any sorting.
    """

    def __init__(self, rows: Rows, size: int, history: int, lr: float, dtype: torch.dtype) -> None:
        self._rows, self.history, self.lr = rows, history, lr
        # Each ring has one row more than it needs: a skipped pair is written there, and never read.
        rows.add("steps", (history + 1, size), dtype)  # S
        rows.add("changes", (history + 1, size), dtype)  # Y
        rows.add("inverse", (history + 1, history + 1), torch.float64)  # R⁻¹
        rows.add("curvature", (history + 1,), torch.float64)  # D
        rows.add("scale", (), torch.float64, fresh=1.0)  # γ
        rows.add("slot", (), torch.int64)
        rows.add("calls", (), torch.int64)
        rows.add("previous_step", (size,), dtype)
        rows.add("previous_gradient", (size,), dtype)

    def take(self, gradient: Tensor, verdict: Verdict | None) -> tuple[Tensor, Tensor]:
        """Change ``[R, N]`` and, with a verdict, slope ``[R]``."""
        rows = self._rows
        fresh, previous, base = rows["calls"] == 0, rows["previous_step"], rows["previous_gradient"]
        if verdict is None:
            step = torch.where(
                fresh[:, None], self._first(gradient), self._direction(gradient, previous, None)
            )
            rows["previous_step"], rows["previous_gradient"] = step, gradient.clone()
            rows["calls"] = rows["calls"] + 1
            return step, step.new_empty(0, dtype=torch.float64)

        advance, forget = verdict.action == ADVANCE, verdict.action == FORGET
        length = verdict.length[:, None].to(previous.dtype)
        direction = self._direction(gradient, previous * length, advance)
        base = torch.where(advance[:, None], gradient, base)
        step = torch.where((fresh | forget)[:, None], self._first(base), direction)
        step = torch.where((verdict.action == MOVE)[:, None], previous, step)
        following = verdict.next_length[:, None].to(previous.dtype)
        change = torch.where(advance[:, None], step, step - length * previous)
        change = torch.where((verdict.action == MOVE)[:, None], (following - length) * previous, change)

        rows["previous_step"], rows["previous_gradient"] = step, base
        rows["calls"] = torch.where(forget, 1, rows["calls"] + advance)
        rows["slot"] = torch.where(forget, 0, rows["slot"])
        rows["scale"] = torch.where(forget, 1.0, rows["scale"])
        rows["inverse"].masked_fill_(forget[:, None, None], 0.0)
        return change, torch.linalg.vecdot(base, step).double()

    def _first(self, gradient: Tensor) -> Tensor:
        return -gradient * (gradient.abs().sum(1, keepdim=True).reciprocal().clamp(max=1.0) * self.lr)

    def _direction(self, gradient: Tensor, step: Tensor, allowed: Tensor | None) -> Tensor:
        """-lr·H g, after the pair of `step` has entered the history of the recoveries that are `allowed`."""
        rows, dtype = self._rows, gradient.dtype
        row = torch.arange(rows.recoveries, device=gradient.device)
        change = gradient - rows["previous_gradient"]
        curvature = torch.linalg.vecdot(step, change).double()
        square = torch.linalg.vecdot(change, change).double()
        # A sum is finite only if all its terms are: what enters the history is.
        keep = (curvature > _CURVATURE_FLOOR) & torch.isfinite(curvature) & torch.isfinite(square)
        if allowed is not None:
            keep = keep & allowed
        slot = torch.where(keep, rows["slot"], self.history)
        rows["steps"][row, slot] = step
        rows["changes"][row, slot] = change
        rows["curvature"][row, slot] = curvature
        # The oldest pair's row and column go; the new pair's column follows below.
        rows["inverse"][row, slot] = 0.0
        rows["inverse"][row, :, slot] = 0.0
        rows["scale"] = scale = torch.where(keep, curvature / square, rows["scale"])
        rows["slot"] = torch.where(keep, (slot + 1) % self.history, rows["slot"])
        steps, changes = rows["steps"][:, : self.history], rows["changes"][:, : self.history]
        inverse = rows["inverse"][:, : self.history, : self.history]

        # Sᵀ[g, y] in one sweep over S: y's products are the new column of R, g's start the solve.
        products = torch.bmm(torch.stack((gradient, change), 1), steps.mT).double()
        solved = torch.bmm(products, inverse.mT)
        rows["inverse"][row, : self.history, slot] = solved[:, 1] / -curvature[:, None]
        rows["inverse"][row, slot, slot] = curvature.reciprocal()
        newest = torch.linalg.vecdot(step, gradient)[:, None] * rows["inverse"][row, : self.history, slot]
        weights = solved[:, 0] + torch.where(keep[:, None], newest, 0.0)  # a

        rest = torch.baddbmm(gradient[:, None], weights[:, None].to(dtype), changes, alpha=-1.0)  # q
        pulled = torch.bmm(rest, changes.mT)[:, 0]
        inner = rows["curvature"][:, : self.history] * weights - scale[:, None] * pulled
        outer = torch.bmm(inner[:, None], inverse)  # b
        whole = torch.baddbmm(rest.mul_(scale[:, None, None].to(dtype)), outer.to(dtype), steps)
        return whole[:, 0].mul_(-self.lr)
