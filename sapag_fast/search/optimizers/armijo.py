"""Backtracking along the present direction, for every recovery at its own pace."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.search.optimizers.rows import Rows

__all__ = ["ADVANCE", "FORGET", "MOVE", "Armijo", "Verdict"]

ADVANCE, MOVE, FORGET = 0, 1, 2
"""Take the point; go to another length along the direction; go back and start again along -g. As LbfgsAction
in csrc/cpu/lbfgs.h."""


@dataclass(frozen=True)
class Verdict:
    """What every recovery does next.

    Attributes
    ----------
    action : Tensor
        ``[R]``, int8: `ADVANCE`, `MOVE` or `FORGET`.
    length, next_length : Tensor
        ``[R]``, float64: of the present point along its direction, and where to go for `MOVE`.
    """

    action: Tensor
    length: Tensor
    next_length: Tensor


class Armijo:
    """A point is taken when f ≤ f₀ + c·t·g₀ᵀp, with f₀, g₀ of the last point taken and t the length along p.

    A point where objective or gradient are not finite is not taken either. Then comes one at the minimum of
    the parabola through f₀, g₀ᵀp and f, kept within [t/10, t/2]. After `patience` such points in a row, or at
    once where p does not descend, the recovery empties its history and starts along -g from the last point
    taken; from then on its lengths shrink for as long as it takes.

    Everything is elementwise on ``[R]``: no recovery's bits depend on another one.

    Parameters
    ----------
    rows : Rows
        Where the search keeps its memory; must have ``calls``, the points taken so far.
    """

    sufficient = 1e-4  # c
    patience = 10

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        rows.add("objective", (), torch.float64)
        rows.add("slope", (), torch.float64)
        rows.add("length", (), torch.float64, fresh=1.0)
        rows.add("refused", (), torch.int64)

    def resume(self, rows: Tensor) -> None:
        """The next point of these recoveries (int64 ``[rows]``) is taken if it is finite."""
        for name, value in (("objective", torch.inf), ("slope", 0.0), ("length", 1.0), ("refused", 0)):
            self._rows.fill(name, rows, value)

    def judge(self, gradient: Tensor, objective: Tensor) -> Verdict:
        """Whether the present points are taken, from gradient ``[R, N]`` and objective ``[R]`` there."""
        rows = self._rows
        reference, slope, length = rows["objective"], rows["slope"], rows["length"]
        objective = objective.double()
        finite = torch.isfinite(objective) & torch.isfinite(gradient).all(1)
        wanted = reference + self.sufficient * (length * slope.clamp(max=0.0))
        taken = (rows["calls"] == 0) | (finite & (objective <= wanted))

        refused = torch.where(taken, 0, rows["refused"] + 1)
        hopeless = (refused == self.patience) | ~(slope < 0.0)
        forget = ~taken & (refused <= self.patience) & hopeless
        rows["refused"] = torch.where(forget, self.patience, refused)

        along = slope * length
        lowest = -0.5 * along * length / (objective - reference - along)
        lowest = torch.where(torch.isfinite(lowest), lowest, 0.0)
        following = torch.maximum(torch.minimum(lowest, 0.5 * length), 0.1 * length)
        action = torch.where(taken, ADVANCE, torch.where(forget, FORGET, MOVE)).to(torch.int8)
        rows["objective"] = torch.where(taken, objective, reference)
        return Verdict(action, length, following)

    def follow(self, verdict: Verdict, slope: Tensor) -> None:
        """Remember where the next points lie; `slope` ``[R]`` is g₀ᵀp, not read for those that `MOVE`."""
        rows, moves = self._rows, verdict.action == MOVE
        rows["slope"] = torch.where(moves, rows["slope"], slope)
        rows["length"] = torch.where(moves, verdict.next_length, 1.0)
