"""DLG's loop, one victim at a time: what `recover` is measured against."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from benchmarks.shared.dlg import deep_leakage

OFF = {"tolerance_grad": -1.0, "tolerance_change": -float("inf")}
"""Options of torch.optim.LBFGS under which it never stops by itself."""


@dataclass(frozen=True)
class PeerResult:
    """Best iterate ``inputs [B, *input_shape]``, its distance, and the number of closures."""

    inputs: Tensor
    distance: float
    evaluations: int


def dlg_loop(
    model: nn.Module,
    target: Sequence[Tensor],
    start: Tensor,
    labels: Tensor,
    *,
    evaluations: int,
    published: bool,
    stop: bool = False,
    look: Callable[[int, Tensor], object] | None = None,
) -> PeerResult:
    """Minimise the summed squared difference of the gradients from `start` with ``torch.optim.LBFGS``.

    Parameters
    ----------
    start : Tensor
        ``[B, *input_shape]``.
    labels : Tensor
        ``[B]``, or logits ``[B, classes]`` to be optimised too (as published).
    published : bool
        ``backward()`` through the distance, which also accumulates second-order gradients into the weights
        and adds to a fresh ``.grad``; else ``torch.autograd.grad`` toward the unknowns alone: the same
        numbers for less work.
    stop : bool
        Keep the optimiser's own tolerances (they end its inner loops early), and end where it stands still.
    look : callable, optional
        Given the number of each evaluation, from 1 on, and the inputs that it is made at.
    """
    found = deep_leakage(
        model,
        target,
        start.shape[1:],
        labels.shape[-1],
        batch_size=start.shape[0],
        steps=sys.maxsize,
        evaluations=evaluations,
        start=start,
        labels=labels,
        backward=published,
        tolerances=stop,
        look=look,
    )
    return PeerResult(found.input, found.distance, found.evaluations)
