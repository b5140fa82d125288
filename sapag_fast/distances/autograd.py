"""The distance as torch sees it: a thin autograd Function over the operators.

V = ∂D/∂g' is formed together with D, in the same sweep, and handed over in the backward pass; nothing there
waits for the device. Second derivatives go through the plain formulas of `sapag_fast.distances.sums`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sapag_fast.distances import operators as ops
from sapag_fast.distances.evaluation import (
    BoundDistance,
    Tensors,
    eager_distance,
    value_alone,
    value_and_gradient,
)


def _scaled(bound: BoundDistance, slopes: Tensors, grad: Tensor) -> list[Tensor]:
    """V times the gradient that flows into D, in place.

    It is 1 in nearly every loop: on the CPU that costs no synchronisation to see, and on a GPU a kernel looks
    and returns.
    """
    if torch.compiler.is_compiling() or bound.backend == "reference":
        rows = [grad.reshape(-1, *[1] * (s.dim() - 1)) if bound.batched else grad for s in slopes]
        return [slope.mul_(row.to(slope.dtype)) for slope, row in zip(slopes, rows, strict=True)]
    if grad.device.type != "cpu" or not (bool((grad == 1).all()) if grad.dim() else grad.item() == 1):
        ops.scale(bound.backend, slopes, grad, bound.batched)
    return list(slopes)


class PlainDistance(torch.autograd.Function):
    """(dummy...) -> D outside of torch.func and torch.compile; V is formed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        bound: BoundDistance,
        target: Tensors,
        cached: Tensor | None,
        keep: Callable[[Tensor | None], None],
        *dummy: Tensor,
    ) -> Tensor:
        """``keep`` receives the target's sums, if this call had to compute them."""
        value, ctx.slopes, sums = value_and_gradient(bound, dummy, target, cached)
        keep(sums)
        ctx.bound = bound
        ctx.save_for_backward(*dummy, *target)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """V times the gradient of D; a second derivative goes through `DistanceGradient`."""
        slopes, ctx.slopes = ctx.slopes, None  # handed out once: its new owner may write to it
        if torch.is_grad_enabled() or slopes is None:
            tensors = ctx.saved_tensors
            slopes = DistanceGradient.apply(ctx.bound, grad, *tensors)
            return (None, None, None, None, *slopes)
        return (None, None, None, None, *_scaled(ctx.bound, slopes, grad))


class FunctionalDistance(torch.autograd.Function):
    """(dummy..., target...) -> D under torch.func transforms and torch.compile.

    V is formed in the backward pass. The rule for vmap folds the mapped dimension into the recoveries.
    """

    @staticmethod
    def forward(bound: BoundDistance, *tensors: Tensor) -> Tensor:
        """D by the kernels, without V."""
        value, _ = value_alone(bound, tensors[: bound.count], tensors[bound.count :], None)
        return value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Keep both lists for the backward pass."""
        ctx.bound = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """V times the gradient of D."""
        # Compiled graphs have no second derivatives, and tracing cannot follow a Function inside a Function.
        scaled = DistanceGradient.forward if torch.compiler.is_compiling() else DistanceGradient.apply
        slopes = scaled(ctx.bound, grad, *ctx.saved_tensors)
        return (None, *slopes, *[None] * (len(ctx.saved_tensors) - ctx.bound.count))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, bound: BoundDistance, *tensors: Tensor) -> tuple[Tensor, int]:
        """D of all mapped pairs in one call."""
        folded = _Fold(info.batch_size, bound, tensors, in_dims[1:])
        value = FunctionalDistance.apply(folded.bound, *folded.tensors)
        return folded.unfold(value), 0


class DistanceGradient(torch.autograd.Function):
    """(grad of D, dummy..., target...) -> V scaled by grad; differentiable through the eager formula."""

    @staticmethod
    def forward(bound: BoundDistance, grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """V by the kernels, times the gradient of D."""
        _, slopes, _ = value_and_gradient(bound, tensors[: bound.count], tensors[bound.count :], None)
        return tuple(_scaled(bound, slopes, grad))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        """Keep all inputs for the second derivative."""
        ctx.bound = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *slope_grads: Tensor) -> tuple:
        """The second derivative: that of the first derivative of the plain formula."""
        grad, *tensors = ctx.saved_tensors
        dummy, target = tensors[: ctx.bound.count], tensors[ctx.bound.count :]

        def first_derivative(grad: Tensor, *dummy: Tensor) -> tuple[Tensor, ...]:
            pull = torch.func.vjp(lambda *g: eager_distance(ctx.bound, g, target), *dummy)[1]
            return pull(grad)

        pull = torch.func.vjp(first_derivative, grad, *dummy)[1]
        return (None, *pull(slope_grads), *[None] * len(target))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, bound: BoundDistance, grad: Tensor, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """V of all mapped pairs in one call."""
        folded = _Fold(info.batch_size, bound, tensors, in_dims[2:])
        grad = folded.fold(grad, in_dims[1], keep_shared=False)
        slopes = DistanceGradient.apply(folded.bound, grad, *folded.tensors)
        return tuple(folded.unfold(slope) for slope in slopes), (0,) * bound.count


class _Fold:
    """A mapped dimension of size B folded into the recoveries: [B, R, ...] -> [B·R, ...]."""

    def __init__(self, size: int, bound: BoundDistance, tensors: Tensors, dims: Sequence[int | None]):
        count = bound.count
        self.size, self.batched = size, bound.batched
        lead = 1 if dims[0] == 0 else 0
        self.recoveries = tensors[0].shape[lead] if bound.batched else 1
        mapped_target = any(dim is not None for dim in dims[count:])
        target_lead = 1 if dims[count] == 0 else 0
        shared = not bound.batched or tensors[count].shape[target_lead] == 1
        keep_shared = shared and not mapped_target
        self.tensors = [
            self.fold(tensor, dim, keep_shared=keep_shared and i >= count)
            for i, (tensor, dim) in enumerate(zip(tensors, dims, strict=True))
        ]
        options = bound.options
        self.bound = replace(
            bound,
            batched=True,
            options=options._replace(
                weights=self._rows(options.weights), variance=self._rows(options.variance)
            ),
        )

    def fold(self, tensor: Tensor, dim: int | None, *, keep_shared: bool) -> Tensor:
        if keep_shared:
            return tensor if self.batched else tensor.unsqueeze(0)
        tensor = tensor.expand(self.size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        if not self.batched:
            return tensor
        if tensor.shape[1] == 1 and self.recoveries > 1:
            tensor = tensor.expand(-1, self.recoveries, *[-1] * (tensor.dim() - 2))
        return tensor.flatten(0, 1)

    def _rows(self, option: Tensor | None) -> Tensor | None:
        if option is None or option.dim() == 1 or option.shape[0] == 1:
            return option
        return option.repeat(self.size, 1)

    def unfold(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (self.size, self.recoveries)) if self.batched else tensor
