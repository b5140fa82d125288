"""The distance as torch sees it: a thin autograd Function over the operators.

V = ∂D/∂g' is formed together with D, in the same sweep, and handed over in the backward pass; nothing
there waits for the device. Second derivatives go through the plain formulas of :mod:`sapag_fast.sums`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sapag_fast import ops
from sapag_fast.distances import Kind, value_and_coefficients
from sapag_fast.reference import reference_distance
from sapag_fast.segments import Layering, layer_sizes
from sapag_fast.sums import GradientSums, difference_sums, target_sums

Tensors = Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Settings:
    """What a distance is, apart from its gradients. weights and variance: [L] or [R, L], or None."""

    kind: Kind
    found: Layering
    batched: bool
    bandwidth: float
    l1_weight: float
    backend: str
    weights: Tensor | None = None
    variance: Tensor | None = None

    def on_sums(self, sums: GradientSums) -> Tensor:
        """D [R] in float64 from the sums."""
        if self.variance is not None:
            sums = replace(sums, target_deviation=self.variance.double() * sums.size)
        return self.kind.value(sums, self.weights, self.bandwidth, self.l1_weight)


def result_dtype(dummy: Tensors) -> torch.dtype:
    """float64 for float64 gradients, float32 for all others: a half's distance would lose its digits."""
    return torch.float64 if dummy[0].dtype == torch.float64 else torch.float32


def eager_distance(settings: Settings, dummy: Tensors, target: Tensors) -> Tensor:
    """D [R] by plain operations, differentiable any number of times."""
    found, batched = settings.found, settings.batched
    if settings.backend == "reference" and settings.kind.native is not None:
        value = reference_distance(
            dummy,
            target,
            settings.kind.name,
            found,
            batched=batched,
            weights=settings.weights,
            bandwidth=settings.bandwidth,
            l1_weight=settings.l1_weight,
            variance=settings.variance,
        )
    else:
        sums = GradientSums.from_columns(
            difference_sums(dummy, target, found, batched),
            target_sums(target, found, batched),
            layer_sizes(target, found, batched),
        )
        value = settings.on_sums(sums)
    return value.to(result_dtype(dummy))


def evaluate(
    settings: Settings,
    dummy: Tensors,
    target: Tensors,
    cached: Tensor | None,
    *,
    gradient: bool,
    out: Any = None,
) -> tuple[Tensor, list[Tensor] | None, Tensor | None]:
    """D [R], V if ``gradient`` is asked for, and the target's sums if this call computed them.

    Not differentiable; ``cached`` are the target's sums of an earlier call.
    """
    kind, found, batched = settings.kind, settings.found, settings.batched
    if settings.backend == "reference":
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in dummy]
            value = eager_distance(settings, leaves, target)
            slopes = torch.autograd.grad(value.sum(), leaves) if gradient else None
        return value.detach(), _into(out, slopes), None
    if kind.native is None:
        sums = ops.target_sums(target, found, batched) if cached is None else cached
        difference = ops.difference_sums(dummy, target, found, batched)
        value, coefficients = value_and_coefficients(
            settings.on_sums, difference, sums, layer_sizes(target, found, batched)
        )
        slopes = ops.apply(dummy, target, found, batched, coefficients) if gradient else None
        return value.to(result_dtype(dummy)), _into(out, slopes), sums
    numbers = (
        kind.native,
        settings.bandwidth,
        settings.l1_weight,
        settings.weights,
        settings.variance,
        cached,
    )
    if gradient:
        value, sums, slopes = ops.distance_and_gradient(dummy, target, found, batched, *numbers, out)
        return value, slopes, sums if cached is None else None
    value, sums = ops.distance(dummy, target, found, batched, *numbers)
    return value, None, sums if cached is None else None


def _into(out: Sequence[Tensor] | None, slopes: Tensors | None) -> list[Tensor] | None:
    if out is None or slopes is None:
        return None if slopes is None else list(slopes)
    for place, slope in zip(out, slopes, strict=True):
        place.copy_(slope)
    return list(out)


def _scaled(settings: Settings, slopes: Tensors, grad: Tensor) -> list[Tensor]:
    """V times the gradient that flows into D, in place. It is 1 in nearly every loop; on the CPU that
    costs no synchronisation to see."""
    visible = grad.device.type == "cpu" and not torch.compiler.is_compiling()
    if visible and (bool((grad == 1).all()) if grad.dim() else grad.item() == 1):
        return list(slopes)
    if not settings.batched:
        return [slope.mul_(grad.reshape(()).to(slope.dtype)) for slope in slopes]
    return [slope.mul_(grad.to(slope.dtype).reshape(-1, *[1] * (slope.dim() - 1))) for slope in slopes]


class PlainDistance(torch.autograd.Function):
    """(dummy...) -> D outside of torch.func and torch.compile; V is formed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        settings: Settings,
        target: Tensors,
        cached: Tensor | None,
        keep: Callable[[Tensor | None], None],
        *dummy: Tensor,
    ) -> Tensor:
        """``keep`` receives the target's sums, if this call had to compute them."""
        value, ctx.slopes, sums = evaluate(settings, dummy, target, cached, gradient=True)
        keep(sums)
        ctx.settings, ctx.count = settings, len(dummy)
        ctx.save_for_backward(*dummy, *target)
        return value if settings.batched else value.reshape(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        slopes, ctx.slopes = ctx.slopes, None  # handed out once: its new owner may write to it
        if torch.is_grad_enabled() or slopes is None:
            tensors = ctx.saved_tensors
            slopes = DistanceGradient.apply(ctx.settings, ctx.count, grad, *tensors)
            return (None, None, None, None, *slopes)
        return (None, None, None, None, *_scaled(ctx.settings, slopes, grad))


class FunctionalDistance(torch.autograd.Function):
    """(dummy..., target...) -> D under torch.func transforms and torch.compile; V is formed in the
    backward pass. The rule for vmap folds the mapped dimension into the recoveries."""

    @staticmethod
    def forward(settings: Settings, count: int, *tensors: Tensor) -> Tensor:
        value, _, _ = evaluate(settings, tensors[:count], tensors[count:], None, gradient=False)
        return value if settings.batched else value.reshape(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.settings, ctx.count, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        slopes = DistanceGradient.apply(ctx.settings, ctx.count, grad, *ctx.saved_tensors)
        return (None, None, *slopes, *[None] * (len(ctx.saved_tensors) - ctx.count))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, settings: Settings, count: int, *tensors: Tensor
    ) -> tuple[Tensor, int]:
        folded = _Fold(info.batch_size, settings, tensors, in_dims[2:], count)
        value = FunctionalDistance.apply(folded.settings, count, *folded.tensors)
        return folded.unfold(value), 0


class DistanceGradient(torch.autograd.Function):
    """(grad of D, dummy..., target...) -> V scaled by grad; differentiable through the eager formula."""

    @staticmethod
    def forward(settings: Settings, count: int, grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        _, slopes, _ = evaluate(settings, tensors[:count], tensors[count:], None, gradient=True)
        return tuple(_scaled(settings, slopes, grad))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.settings, ctx.count, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *slope_grads: Tensor) -> tuple:
        grad, *tensors = ctx.saved_tensors
        dummy, target = tensors[: ctx.count], tensors[ctx.count :]

        def first_derivative(grad: Tensor, *dummy: Tensor) -> tuple[Tensor, ...]:
            _, pull = torch.func.vjp(lambda *g: eager_distance(ctx.settings, g, target), *dummy)
            return pull(grad.reshape(-1))

        _, pull = torch.func.vjp(first_derivative, grad, *dummy)
        return (None, None, *pull(slope_grads), *[None] * len(target))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, settings: Settings, count: int, grad: Tensor, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        folded = _Fold(info.batch_size, settings, tensors, in_dims[3:], count)
        grad = folded.fold(grad, in_dims[2], keep_shared=False, batched=settings.batched)
        slopes = DistanceGradient.apply(folded.settings, count, grad, *folded.tensors)
        return tuple(folded.unfold(slope) for slope in slopes), (0,) * count


class _Fold:
    """A mapped dimension of size B folded into the recoveries: [B, R, ...] -> [B·R, ...]."""

    def __init__(
        self, size: int, settings: Settings, tensors: Tensors, dims: Sequence[int | None], count: int
    ):
        self.size, self.batched = size, settings.batched
        lead = 1 if dims[0] == 0 else 0
        self.recoveries = tensors[0].shape[lead] if settings.batched else 1
        mapped_target = any(dim is not None for dim in dims[count:])
        target_lead = 1 if dims[count] == 0 else 0
        shared = not settings.batched or tensors[count].shape[target_lead] == 1
        keep_shared = shared and not mapped_target
        self.tensors = [
            self.fold(tensor, dim, keep_shared=keep_shared and i >= count, batched=settings.batched)
            for i, (tensor, dim) in enumerate(zip(tensors, dims, strict=True))
        ]
        self.settings = replace(
            settings,
            batched=True,
            weights=self._rows(settings.weights, "layer_weights"),
            variance=self._rows(settings.variance, "variance"),
        )

    def fold(self, tensor: Tensor, dim: int | None, *, keep_shared: bool, batched: bool) -> Tensor:
        if keep_shared:
            return tensor if batched else tensor.unsqueeze(0)
        tensor = tensor.expand(self.size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        if not batched:
            return tensor
        if tensor.shape[1] == 1 and self.recoveries > 1:
            tensor = tensor.expand(-1, self.recoveries, *[-1] * (tensor.dim() - 2))
        return tensor.flatten(0, 1)

    def _rows(self, option: Tensor | None, name: str) -> Tensor | None:
        if option is None or option.dim() == 1:
            return option
        if torch._C._functorch.is_batchedtensor(option):
            raise ValueError(f"{name}: cannot be mapped over by torch.func.vmap; give one row for each layer")
        return option.repeat(self.size, 1) if option.shape[0] > 1 else option

    def unfold(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (self.size, self.recoveries)) if self.batched else tensor
