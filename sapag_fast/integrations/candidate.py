"""A candidate's distance as autograd sees it, for tools that ask for a loss and call ``backward`` on it.

The gradient toward the candidate is formed together with the value, by whichever way suits the network: V is
handed over outside of autograd, one small image runs without oneDNN, a large network in explicit mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_batchedtensor

from sapag_fast import checks as check
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.integrations.attention import PLAIN_ATTENTION
from sapag_fast.integrations.untouched import untouched, written_buffer
from sapag_fast.matching.choose import choose_matching
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import LossFunction, Problem
from sapag_fast.victim.searchable import causes_named

__all__ = ["CandidateDistance"]


class _WithGradient(torch.autograd.Function):
    """(candidate, D, dD/d candidate) -> D."""

    @staticmethod
    def forward(ctx: Any, candidate: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad, None, None


class _Recorded:
    """A loss function that keeps its last value, ``last``, shape ()."""

    def __init__(self, loss_fn: LossFunction) -> None:
        self.loss_fn = loss_fn
        self.last = torch.full((), torch.nan)

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        loss = self.loss_fn(output, labels)
        plain = loss.detach()
        while is_batchedtensor(plain):  # explicit mode maps the loss over recoveries
            plain = get_unwrapped(plain)
        self.last = plain.sum()
        return loss


class CandidateDistance:
    """The distance of one candidate batch for one model and target.

    Parameters
    ----------
    model : nn.Module
        Left as it is found, the global random numbers too; no ``.grad`` of its parameters is written to.
    loss_fn : callable
        ``(output, labels) -> scalar``.
    distance : GradientDistance
        Kind and options.
    target : sequence of Tensor
        One gradient for each parameter.
    candidate, labels : Tensor
        ``[B, ...]``: with these the ways are tried.

    Raises
    ------
    Exception
        Whatever the model or the loss raise.
    ValueError
        Where the target does not fit the model's trainable parameters, and where evaluations write to the
        model's buffers, as spectral norm in training mode does: a loop over the model itself sees that.
    NoSecondDerivativeError
        Where a layer has none; it says what to do.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        distance: GradientDistance,
        target: Sequence[Tensor],
        candidate: Tensor,
        labels: Tensor,
    ) -> None:
        self.model = model
        self.target = check.check_tensors("target", target)
        self.loss = _Recorded(loss_fn)
        problem = Problem(
            VictimModel(model), self.loss, distance, [gradient.detach()[None] for gradient in self.target]
        )
        if len(problem.names) != len(self.target):
            raise ValueError(
                f"target: expected one gradient for each of {len(problem.names)} trainable parameters, "
                f"found {len(self.target)}"
            )
        with untouched(model, candidate.device), torch.enable_grad(), PLAIN_ATTENTION, causes_named():
            written = written_buffer(model, candidate)
            if written is not None:
                raise ValueError(
                    f"model: expected one that evaluations leave as it is, found that it writes to {written}"
                )
            self.matching = choose_matching(problem, candidate.detach()[None], labels.detach()[None]).matching

    def serves(self, model: nn.Module, target: Sequence[Tensor]) -> bool:
        """Whether this is the model and the target that it was made for."""
        return (
            self.model is model
            and len(target) == len(self.target)
            and all(mine is other for mine, other in zip(self.target, target, strict=True))
        )

    def __call__(self, candidate: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Distance, differentiable once in the candidate, and the loss, without a graph; both shape ()."""
        with PLAIN_ATTENTION:
            value, slope, _ = self.matching.value_and_gradient(
                candidate.detach()[None], labels.detach()[None]
            )
        return _WithGradient.apply(candidate, value[0], slope[0]), self.loss.last
