"""All recoveries at once, by ``torch.func.vmap``: for modules that no rule of explicit mode covers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sapag_fast.matching.base import FIRST_BACKWARD, FORWARD, REST, SECOND_BACKWARD, SUMS, StageHook
from sapag_fast.victim.problem import Problem, rebuilt

__all__ = ["VmapMatching"]


class VmapMatching:
    """All recoveries at once, by ``torch.func.vmap``.

    Weights are shared, so the forward and the gradients toward activations run as one large batch; only the
    weights' gradients become grouped operations. The way back to the inputs is a ``vjp`` inside of ``vmap``:
    plain autograd around it would differentiate what vmap has decomposed normalisation layers into, where
    their saved means count as constants, and the result would be silently wrong.

    Parameters
    ----------
    problem : Problem
        Network, loss, targets, distance.

    Attributes
    ----------
    mode : str
    stages : callable or None
        As of `Matching`.
    """

    mode = "vmap"

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.plain = rebuilt(problem.distance, batched=True)
        self.stages: StageHook | None = None
        self.retarget(problem.rows())
        self.matched = [index for index, entry in enumerate(self.targets) if entry is not None]
        self.parameters = {name: p.detach() for name, p in problem.parameters.items()}
        self.idle: frozenset[str] | None = None
        buffer_dims = 0 if problem.network.writes_buffers else None
        self.functions = {
            smooth: torch.func.vmap(
                self._one, in_dims=(buffer_dims, 0, 0, 0 if smooth else None), randomness="different"
            )
            for smooth in (False, True)
        }

    def retarget(self, victims: Tensor, widths: Tensor | None = None) -> None:
        """From now on row r searches victim ``victims[r]``, as `Matching` says; R may change."""
        self.targets = self.problem.targets_of(victims)
        self.distance = self.plain
        if widths is not None:
            bound, present = self.plain.bound_to(self.targets), [t for t in self.targets if t is not None]
            wide = bound.widened(widths, bound.target_sums(present), bound.sizes(present))
            self.distance = self.plain.copy(variance=wide.options.variance)

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate once, as `Matching` says."""
        if self.stages is not None:
            self.stages(FORWARD)
        network = self.problem.network
        if self.idle is None:
            self.idle = self.problem.idle(inputs[0], labels[0], None if sharpness is None else sharpness[0])
        buffers = network.buffers
        if network.writes_buffers:
            # Each recovery writes to its own copy, so none sees another's running statistics.
            buffers = {name: b.expand(inputs.shape[0], *b.shape) for name, b in buffers.items()}
        function = self.functions[sharpness is not None]
        value, toward_inputs, *toward_labels = function(buffers, inputs.detach(), labels.detach(), sharpness)
        if self.stages is not None:
            self.stages(REST)
        return value, toward_inputs, toward_labels[0] if toward_labels else None

    def _one(
        self, buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor, sharpness: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Distance and its gradients of one recovery."""
        idle = self.idle or ()

        def gradients(*leaves: Tensor) -> tuple[Tensor, ...]:
            inputs, known = leaves if self.problem.joint else (*leaves, labels)
            slope = torch.func.grad(self._loss)

            def step(now: dict[str, Tensor], rows: Tensor, truth: Tensor) -> dict[str, Tensor | None]:
                slopes = slope(now, buffers, rows, truth, sharpness)
                return {name: None if name in idle else each for name, each in slopes.items()}

            by_name = self.problem.trained(step, self.parameters, inputs, known)
            # Of torch.func every parameter has a gradient, zero where it does not take part.
            every = [
                torch.zeros_like(self.parameters[name]) if gradient is None else gradient
                for name, gradient in by_name.items()
            ]
            return tuple(every[index] for index in self.matched)

        leaves = (inputs, labels) if self.problem.joint else (inputs,)
        dummy, pull, *_ = torch.func.vjp(gradients, *leaves)
        value, *weights = _BatchedDistance.apply(self._match, *dummy)
        return value, *pull(tuple(weights))

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        inputs: Tensor,
        labels: Tensor,
        sharpness: Tensor | None,
    ) -> Tensor:
        if self.problem.network.writes_buffers:
            # Cloned at this level, where writing to them is allowed.
            buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        loss = self.problem.loss(parameters, buffers, inputs, labels, sharpness)
        if self.stages is not None:
            self.stages(FIRST_BACKWARD)
        return loss

    def _match(self, dummy: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Distances ``[R]`` of all recoveries, and V of what is matched."""
        if self.stages is not None:
            self.stages(SUMS)
        full: list[Tensor | None] = [None] * len(self.targets)
        for index, gradient in zip(self.matched, dummy, strict=True):
            full[index] = gradient
        value, weights = self.distance.distance_and_gradient(full, self.targets)
        matched = [weight for weight in weights if weight is not None]
        if self.stages is not None:
            self.stages(SECOND_BACKWARD)
        return value, matched


class _BatchedDistance(torch.autograd.Function):
    """Distance and V of one recovery as seen inside of ``vmap``.

    Its rule calls the fused operator once, for all of them.
    """

    @staticmethod
    def forward(match: Callable, *dummy: Tensor) -> tuple[Tensor, ...]:
        value, weights = match([gradient[None] for gradient in dummy])
        return value[0], *(weight[0] for weight in weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Nothing to keep: V is handed over as a constant."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, match: Callable, *dummy: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        rows = [
            gradient.expand(info.batch_size, *gradient.shape) if dim is None else gradient.movedim(dim, 0)
            for gradient, dim in zip(dummy, in_dims[1:], strict=True)
        ]
        value, weights = match(rows)
        return (value, *weights), (0,) * (1 + len(weights))
