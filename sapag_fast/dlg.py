"""Deep Leakage from Gradients (Zhu, Liu, Han 2019) as published: the baseline that the demo shows beside
SAPAG.

One victim at a time: dummy image and dummy label from a standard normal, the summed squared difference of the
gradients, ``torch.optim.LBFGS`` with its defaults (up to 20 iterations a step, no line search) over image and
label logits together.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DlgResult:
    """``input`` [B, *input_shape] and ``labels`` [B] of the iterate with the lowest ``distance``."""

    input: Tensor
    labels: Tensor
    distance: float
    evaluations: int
    seconds: float
    status: str


def deep_leakage(
    model: nn.Module,
    target: Sequence[Tensor],
    input_shape: Sequence[int],
    classes: int,
    *,
    batch_size: int = 1,
    steps: int = 300,
    evaluations: int | None = None,
    seed: int = 0,
) -> DlgResult:
    """Run DLG against one gradient, given in the order of ``model.parameters()``.

    Up to ``steps`` optimizer steps (300 published) and ``evaluations`` closure calls; fewer once an iterate
    is not finite or the optimizer stands still by its own tolerances. Status: budget, non-finite, stalled.
    """
    began = time.perf_counter()
    parameters = tuple(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    dummy = torch.randn(batch_size, *input_shape, generator=generator).to(parameters[0]).requires_grad_()
    logits = torch.randn(batch_size, classes, generator=generator).to(parameters[0]).requires_grad_()
    # The step that runs into the budget is cut short by its iteration limit, one closure an iteration.
    optimizer = torch.optim.LBFGS([dummy, logits], lr=1.0, max_iter=20)
    best, best_input, best_labels = float("inf"), dummy.detach().clone(), logits.detach().argmax(1)
    count = 0

    def closure() -> Tensor:
        nonlocal best, best_input, best_labels, count
        count += 1
        loss = -(F.softmax(logits, -1) * F.log_softmax(model(dummy), -1)).sum(-1).mean()
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        distance = sum(((ours - theirs) ** 2).sum() for ours, theirs in zip(gradient, target, strict=True))
        # Toward image and label alone: backward() would also pay for second-order gradients of the weights.
        dummy.grad, logits.grad = torch.autograd.grad(distance, (dummy, logits))
        value = distance.item()
        if value < best:
            best, best_input, best_labels = value, dummy.detach().clone(), logits.detach().argmax(1)
        return distance.detach()

    status = "budget"
    for _ in range(steps):
        left = 20 if evaluations is None else min(20, evaluations - count)
        if left <= 0:
            break
        optimizer.param_groups[0].update(max_iter=left, max_eval=left + 5)
        before = count, dummy.detach().clone()
        optimizer.step(closure)
        if not torch.isfinite(dummy).all():
            status = "non-finite"
        elif count == before[0] + 1 and torch.equal(dummy, before[1]):
            status = "stalled"
        else:
            continue
        break
    return DlgResult(best_input, best_labels, best, count, time.perf_counter() - began, status)
