"""All recoveries at once, by torch.func.vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sapag_fast.victim.problem import Problem, rebuilt

__all__ = ["VmapMatching"]


class _BatchedDistance(torch.autograd.Function):
    """Distance and V of one recovery as seen inside ``vmap``; its rule calls the fused operator once, for all
    of them.
    """

    @staticmethod
    def forward(evaluate: Callable, *dummy: Tensor) -> tuple[Tensor, ...]:
        value, weights = evaluate([gradient[None] for gradient in dummy])
        return value[0], *(weight[0] for weight in weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Nothing to keep: V is handed over as a constant."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, evaluate: Callable, *dummy: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        rows = [
            gradient.expand(info.batch_size, *gradient.shape) if dim is None else gradient.movedim(dim, 0)
            for gradient, dim in zip(dummy, in_dims[1:], strict=True)
        ]
        value, weights = evaluate(rows)
        return (value, *weights), (0,) * (1 + len(weights))


class VmapMatching:
    """All recoveries at once, by ``torch.func.vmap``.

    Weights are shared, so the forward and the gradients toward activations run as one large batch; only the
    weights' gradients become grouped operations. The way back to the inputs is a ``vjp`` inside of ``vmap``:
    plain autograd around it would differentiate what vmap has decomposed normalisation layers into, where
    their saved means count as constants, and the result would be silently wrong.
    """

    mode = "vmap"
    reason = ""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.distance = rebuilt(problem.distance, batched=True)
        self.retarget(problem.rows())
        self.matched = [index for index, entry in enumerate(self.targets) if entry is not None]
        self.parameters = {name: p.detach() for name, p in problem.parameters.items()}
        buffer_dims = 0 if problem.writes_buffers else None
        self.functions = {
            smooth: torch.func.vmap(
                self._one, in_dims=(buffer_dims, 0, 0, 0 if smooth else None), randomness="different"
            )
            for smooth in (False, True)
        }

    def retarget(self, victims: Tensor) -> None:
        self.targets = self.problem.targets_of(victims)

    def _evaluate(self, dummy: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        full: list[Tensor | None] = [None] * len(self.targets)
        for index, gradient in zip(self.matched, dummy, strict=True):
            full[index] = gradient
        value, weights = self.distance.distance_and_gradient(full, self.targets)
        return value, [weights[index] for index in self.matched]

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        inputs: Tensor,
        labels: Tensor,
        sharpness: Tensor | None,
    ) -> Tensor:
        if self.problem.writes_buffers:
            # Cloned at this level, where writing to them is allowed.
            buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        return self.problem.loss(parameters, buffers, inputs, labels, sharpness)

    def _one(
        self, buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor, sharpness: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Distance and its gradients of one recovery."""

        def gradients(*leaves: Tensor) -> tuple[Tensor, ...]:
            inputs, known = leaves if self.problem.joint else (*leaves, labels)
            slope = torch.func.grad(self._loss)
            by_name = self.problem.over_local_steps(
                lambda parameters: slope(parameters, buffers, inputs, known, sharpness), self.parameters
            )
            found = tuple(by_name.values())
            return tuple(found[index] for index in self.matched)

        leaves = (inputs, labels) if self.problem.joint else (inputs,)
        dummy, pull = torch.func.vjp(gradients, *leaves)
        value, *weights = _BatchedDistance.apply(self._evaluate, *dummy)
        return value, *pull(tuple(weights))

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        buffers = self.problem.buffers
        if self.problem.writes_buffers:
            # Each recovery writes to its own copy, so none sees another's running statistics.
            buffers = {name: b.expand(inputs.shape[0], *b.shape) for name, b in buffers.items()}
        function = self.functions[sharpness is not None]
        value, toward_inputs, *toward_labels = function(buffers, inputs.detach(), labels.detach(), sharpness)
        return value, toward_inputs, toward_labels[0] if toward_labels else None
