"""Deep Leakage from Gradients (Zhu, Liu, Han 2019) as published: the baseline that the demo shows beside
SAPAG.

One victim at a time: dummy image and dummy label from a standard normal, the summed squared difference of the
gradients, ``torch.optim.LBFGS`` with its defaults (up to 20 iterations a step, no line search) over image and
label logits together.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.command_line.demo.dlg import DlgResult


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
    start: Tensor | None = None,
    labels: Tensor | None = None,
    backward: bool = False,
    tolerances: bool = True,
    stop_distance: float = 0.0,
    look: Callable[[int, Tensor], object] | None = None,
) -> DlgResult:
    """Run DLG against one gradient, given in the order of ``model.parameters()``.

    Up to ``steps`` optimizer steps (300 published) and ``evaluations`` closure calls; fewer once an iterate
    is not finite or the optimizer stands still by its own tolerances. The result holds B inputs and labels;
    its status may also be ``reached``, below `stop_distance`.

    Parameters
    ----------
    start : Tensor, optional
        ``[B, *input_shape]`` in place of the noise of `seed`.
    labels : Tensor, optional
        ``[B]``, int64: known, as in iDLG; ``[B, classes]``: logits to begin with, in place of noise.
    backward : bool
        ``backward()`` through the distance, as published, which also forms second-order gradients of the
        weights; else toward image and label alone: the same numbers for less work.
    tolerances : bool
        Let the optimizer end its steps early by its own tolerances, as published.
    stop_distance : float
        End after the optimizer step in which an iterate comes below this.
    look : callable, optional
        Given the number of each evaluation, from 1 on, and the inputs that it is made at.
    """
    began = time.perf_counter()
    parameters = tuple(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch_size, *input_shape, generator=generator) if start is None else start
    dummy = noise.detach().clone().to(parameters[0]).requires_grad_()
    if labels is None:
        labels = torch.randn(batch_size, classes, generator=generator)
    joint = labels.is_floating_point()
    known = labels.detach().clone().to(parameters[0]).requires_grad_() if joint else labels
    unknowns = [dummy, known] if joint else [dummy]
    # The step that runs into the budget is cut short by its iteration limit, one closure an iteration.
    options = {} if tolerances else {"tolerance_grad": -1.0, "tolerance_change": -float("inf")}
    optimizer = torch.optim.LBFGS(unknowns, lr=1.0, max_iter=20, **options)
    best, best_input = float("inf"), dummy.detach().clone()
    best_labels = known.detach().argmax(1) if joint else known
    count = 0

    def closure() -> Tensor:
        nonlocal best, best_input, best_labels, count
        count += 1
        if look is not None:
            look(count, dummy)
        loss = F.cross_entropy(model(dummy), known.softmax(-1) if joint else known)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        distance = sum(((ours - theirs) ** 2).sum() for ours, theirs in zip(gradient, target, strict=True))
        if backward:
            optimizer.zero_grad()
            model.zero_grad()
            distance.backward()
        else:
            for unknown, slope in zip(unknowns, torch.autograd.grad(distance, unknowns), strict=True):
                unknown.grad = slope
        value = distance.item()
        if value < best:
            best, best_input = value, dummy.detach().clone()
            best_labels = known.detach().argmax(1) if joint else known
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
        elif best < stop_distance:
            status = "reached"
        else:
            continue
        break
    if backward:
        model.zero_grad()
    return DlgResult(best_input, best_labels, best, count, time.perf_counter() - began, status)
