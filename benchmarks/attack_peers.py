"""DLG's loop, written plainly, one victim at a time: what `recover` is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        Keep the optimiser's own tolerances (they end its inner loops early).
    """
    parameters = tuple(model.parameters())
    dummy = start.clone().requires_grad_()
    joint = labels.is_floating_point()
    known = labels.clone().requires_grad_() if joint else labels
    unknowns = [dummy, known] if joint else [dummy]
    optimizer = torch.optim.LBFGS(unknowns, lr=1.0, **({} if stop else OFF))
    best = (float("inf"), start)
    count = 0

    def closure() -> Tensor:
        nonlocal best, count
        count += 1
        if published:
            optimizer.zero_grad()
            model.zero_grad()
        loss = F.cross_entropy(model(dummy), known.softmax(-1) if joint else known)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        distance = sum(((g - t) ** 2).sum() for g, t in zip(gradient, target, strict=True))
        if published:
            distance.backward()
        else:
            for unknown, slope in zip(unknowns, torch.autograd.grad(distance, unknowns), strict=True):
                unknown.grad = slope
        if stop and distance.item() < best[0]:
            best = (distance.item(), dummy.detach().clone())
        return distance

    while count < evaluations:
        before = count
        # One closure an iteration; the last round stops at the budget.
        optimizer.param_groups[0]["max_iter"] = min(20, evaluations - count)
        optimizer.step(closure)
        if stop and (count == before + 1 or not torch.isfinite(dummy).all()):
            break
    return PeerResult(best[1] if stop else dummy.detach(), best[0], count)
