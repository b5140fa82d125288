"""Deep Leakage from Gradients (Zhu, Liu, Han 2019) as published: the baseline beside SAPAG.

One victim at a time: dummy image and dummy label from a standard normal, the summed squared difference of the
gradients, ``torch.optim.LBFGS`` with its defaults (up to 20 iterations a step, no line search) over image and
label logits together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DlgResult", "deep_leakage"]

_ITERATIONS = 20  # of torch.optim.LBFGS in one step, its default


@dataclass(frozen=True)
class DlgResult:
    """The iterate with the lowest distance.

    Attributes
    ----------
    input : Tensor
        ``[1, *input_shape]``.
    labels : Tensor
        ``[1]``, int64.
    distance : float
        Inf where no iterate was finite.
    evaluations : int
    seconds : float
    status : str
        ``budget``, ``non-finite`` or ``stalled``.
    """

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
    steps: int = 300,
    evaluations: int | None = None,
    seed: int = 0,
) -> DlgResult:
    """Run DLG against the gradient of one image.

    It ends sooner than `steps` and `evaluations` say once an iterate is not finite, or the optimizer stands
    still by its own tolerances.

    Parameters
    ----------
    model : nn.Module
    target : sequence of Tensor
        The gradient, in the order of ``model.parameters()``.
    input_shape : sequence of int
        Of the image.
    classes : int
        Labels that there are.
    steps : int
        Of the optimizer at most; 300 published.
    evaluations : int, optional
        At most.
    seed : int
        Of image and label to begin with.

    Returns
    -------
    DlgResult
    """
    began = time.perf_counter()
    search = _Search(model, target, input_shape, classes, seed)
    # The step that runs into the budget is cut short by its iteration limit, one evaluation an iteration.
    optimizer = torch.optim.LBFGS([search.image, search.label], lr=1.0, max_iter=_ITERATIONS)
    status = "budget"
    for _ in range(steps):
        left = _ITERATIONS if evaluations is None else min(_ITERATIONS, evaluations - search.evaluations)
        if left <= 0:
            break
        optimizer.param_groups[0].update(max_iter=left, max_eval=left + 5)
        before, image = search.evaluations, search.image.detach().clone()
        optimizer.step(search.closure)
        if not torch.isfinite(search.image).all():
            status = "non-finite"
            break
        if search.evaluations == before + 1 and torch.equal(search.image, image):
            status = "stalled"
            break
    seconds = time.perf_counter() - began
    return DlgResult(
        search.best_image, search.best_label, search.distance, search.evaluations, seconds, status
    )


class _Search:
    """Dummy image and label logits, the closure that evaluates them, and the best iterate so far."""

    def __init__(
        self,
        model: nn.Module,
        target: Sequence[Tensor],
        input_shape: Sequence[int],
        classes: int,
        seed: int,
    ) -> None:
        self.model, self.target, self.parameters = model, target, tuple(model.parameters())
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, *input_shape, generator=generator)
        self.image = noise.to(self.parameters[0]).requires_grad_()
        self.label = torch.randn(1, classes, generator=generator).to(self.parameters[0]).requires_grad_()
        self.distance, self.evaluations = float("inf"), 0
        self.best_image, self.best_label = self.image.detach().clone(), self.label.detach().argmax(1)

    def closure(self) -> Tensor:
        """Evaluate the distance, and leave its gradients toward image and label on them."""
        self.evaluations += 1
        loss = F.cross_entropy(self.model(self.image), self.label.softmax(-1))
        gradient = torch.autograd.grad(loss, self.parameters, create_graph=True)
        distance = torch.zeros_like(loss)
        for ours, theirs in zip(gradient, self.target, strict=True):
            distance = distance + ((ours - theirs) ** 2).sum()
        # Toward image and label alone: backward() would give the same numbers, and second-order gradients of
        # the weights besides.
        self.image.grad, self.label.grad = torch.autograd.grad(distance, (self.image, self.label))
        value = distance.item()
        if value < self.distance:
            self.distance = value
            self.best_image, self.best_label = self.image.detach().clone(), self.label.detach().argmax(1)
        return distance.detach()
