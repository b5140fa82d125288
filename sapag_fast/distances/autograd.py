"""The distance as torch sees it: a thin autograd Function over the operators.

V = ∂D/∂g' is formed together with D, in the same sweep, and handed over in the backward pass; nothing there
waits for the device. Second derivatives, forward and backward, are backward passes through the plain formulas
of `sapag_fast.distances.sums`: the Hessian is symmetric.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

from sapag_fast.distances import operators as ops
from sapag_fast.distances.evaluation import (
    BoundDistance,
    Tensors,
    eager_distance,
    value_alone,
    value_and_gradient,
)


def traced() -> bool:
    """Inside of torch.compile or a torch.func transform: tensors have no memory of their own."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def transforming() -> bool:
    """Inside of torch.compile, a torch.func transform or forward mode: tensors are not what they seem."""
    return traced() or forward_ad._current_level >= 0


def _forward_levels() -> int:
    """How many forward modes of torch.func the call is inside of."""
    stack = [] if torch.compiler.is_compiling() else get_interpreter_stack() or []
    return sum(interpreter.key() == TransformType.Jvp for interpreter in stack)


def transformed_distance(bound: BoundDistance, dummy: Tensors, target: Tensors, wanted: bool) -> Tensor:
    """D where `transforming`; ``wanted``: derivatives of plain autograd."""
    compiling = torch.compiler.is_compiling()
    # Plain operations bear every transform. torch.compile follows no derivative of a function of sums, and no
    # transform of a Function; of forward modes one in the other, torch drops a Function's second derivative.
    plain = (
        compiling and (bound.kind.native is None or torch._C._are_functorch_transforms_active())
    ) or _forward_levels() > 1
    if plain or bound.backend == "reference":
        return eager_distance(bound, dummy, target)
    if compiling and not wanted:
        return value_alone(bound, dummy, target, None)[0]
    return (CompiledDistance if compiling else FunctionalDistance).apply(bound, *dummy, *target)


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


class CompiledDistance(torch.autograd.Function):
    """(dummy..., target...) -> D under torch.compile, which takes no forward mode; V in the backward pass."""

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
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        """V times the gradient of D."""
        # Compiled graphs have no second derivatives, and tracing cannot follow a Function inside a Function.
        scaled = DistanceGradient.forward if torch.compiler.is_compiling() else DistanceGradient.apply
        slopes = scaled(ctx.bound, grad, *ctx.saved_tensors)
        return (None, *slopes, *[None] * (len(ctx.saved_tensors) - ctx.bound.count))


class FunctionalDistance(CompiledDistance):
    """The same under torch.func transforms and forward mode.

    The rule for vmap folds the mapped dimension into the recoveries.
    """

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        """Σ V·t over the tangents of the dummy gradient."""
        bound, tensors = ctx.bound, ctx.saved_tensors
        one = _ones(bound, tensors)
        slopes = DistanceGradient.apply(bound, one, *tensors)
        lead = 1 if bound.batched else 0
        parts = [
            (slope.double() * tangent.double()).flatten(lead).sum(-1)
            for slope, tangent in zip(slopes, tangents, strict=False)
            if tangent is not None
        ]
        return torch.stack(parts).sum(0).to(one.dtype)

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
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *slope_grads: Tensor) -> tuple:
        """The second derivative: that of the first derivative of the plain formula."""
        grad, *tensors = ctx.saved_tensors
        pulled = _second_derivative(ctx.bound, grad, tensors, slope_grads)
        return (None, *pulled, *[None] * ctx.bound.count)

    @staticmethod
    def jvp(ctx: Any, _: None, grad_tangent: Tensor | None, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        """The derivative of grad·V along tangents t: grad·H·t, plus V times the tangent of grad."""
        grad, *tensors = ctx.saved_tensors
        moved = [t for t in tangents[: ctx.bound.count] if t is not None]
        total = [torch.zeros_like(t) for t in tensors[: ctx.bound.count]]
        if moved:
            along = [torch.zeros_like(a) if t is None else t for a, t in zip(tensors, tangents, strict=True)]
            _, *total = _second_derivative(ctx.bound, grad, tensors, along[: ctx.bound.count])
        if grad_tangent is None:
            return tuple(total)
        slopes = DistanceGradient.apply(ctx.bound, grad_tangent, *tensors)
        return tuple(part + slope for part, slope in zip(total, slopes, strict=True))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, bound: BoundDistance, grad: Tensor, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """V of all mapped pairs in one call."""
        folded = _Fold(info.batch_size, bound, tensors, in_dims[2:])
        grad = folded.fold(grad, in_dims[1], keep_shared=False)
        slopes = DistanceGradient.apply(folded.bound, grad, *folded.tensors)
        return tuple(folded.unfold(slope) for slope in slopes), (0,) * bound.count


def _ones(bound: BoundDistance, dummy: Tensors) -> Tensor:
    """A gradient of D that leaves V as it is."""
    shape = dummy[0].shape[:1] if bound.batched else ()
    return torch.ones(shape, dtype=ops.result_dtype(dummy), device=dummy[0].device)


def _second_derivative(bound: BoundDistance, grad: Tensor, tensors: Tensors, along: Tensors) -> tuple:
    """Of grad·V, pulled back along ``along``: Σ V·along of each recovery, and grad·H·along."""
    dummy, target = tensors[: bound.count], tensors[bound.count :]

    def first_derivative(grad: Tensor, *dummy: Tensor) -> tuple[Tensor, ...]:
        pull = torch.func.vjp(lambda *g: eager_distance(bound, g, target), *dummy)[1]
        return pull(grad)

    pull = torch.func.vjp(first_derivative, grad, *dummy)[1]
    return pull(tuple(along))


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
