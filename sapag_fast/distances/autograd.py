"""The distance as torch sees it: a thin autograd Function over the operators.

V = ∂D/∂g' is formed together with D, in the same sweep, and handed over in the backward pass; nothing
there waits for the device. Second derivatives go through the plain formulas of `distances.sums`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sapag_fast.distances import operators as ops
from sapag_fast.distances.kind import Kind, value_and_coefficients
from sapag_fast.distances.layering import Layering, layer_sizes
from sapag_fast.distances.reference import reference_distance
from sapag_fast.distances.sums import GradientSums, difference_sums, target_sums

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
    size: Tensor | None  # elements of each layer, float64 [L]; None in transforms, which it must not leave
    weights: Tensor | None = None
    variance: Tensor | None = None

    @property
    def count(self) -> int:
        """How many tensors each of the two lists has."""
        return len(self.found.kept)

    def sizes(self, target: Tensors) -> Tensor:
        """Elements of each layer, float64 [L]."""
        return layer_sizes(target, self.found, self.batched) if self.size is None else self.size

    def on_sums(self, sums: GradientSums) -> Tensor:
        """D [R] in float64 from the sums."""
        if self.variance is not None:
            sums = replace(sums, target_deviation=self.variance.double() * sums.size)
        return self.kind.value(sums, self.weights, self.bandwidth, self.l1_weight)

    def shaped(self, value: Tensor) -> Tensor:
        """[R] as it is, without recoveries shape (): never a view, which callers could not write to."""
        return value if self.batched else value.sum()


def eager_distance(settings: Settings, dummy: Tensors, target: Tensors) -> Tensor:
    """D by plain operations, differentiable any number of times."""
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
            settings.sizes(target),
        )
        value = settings.on_sums(sums)
    return settings.shaped(value.to(ops.result_dtype(dummy)))


def evaluate(
    settings: Settings,
    dummy: Tensors,
    target: Tensors,
    cached: Tensor | None,
    *,
    gradient: bool,
    out: Any = None,
) -> tuple[Tensor, list[Tensor] | None, Tensor | None]:
    """D, V if ``gradient`` is asked for, and the target's sums if this call computed them.

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
        sums = ops.target_sums(settings.backend, target, found, batched) if cached is None else cached
        difference = ops.difference_sums(settings.backend, dummy, target, found, batched)
        value, coefficients = value_and_coefficients(
            settings.on_sums, difference, sums, settings.sizes(target)
        )
        slopes = (
            ops.apply(settings.backend, dummy, target, found, batched, coefficients) if gradient else None
        )
        return settings.shaped(value.to(ops.result_dtype(dummy))), _into(out, slopes), sums
    numbers = (
        kind.native,
        settings.bandwidth,
        settings.l1_weight,
        settings.weights,
        settings.variance,
        cached,
    )
    if gradient:
        value, sums, slopes = ops.distance_and_gradient(
            settings.backend, dummy, target, found, batched, *numbers, out
        )
        return value, slopes, sums if cached is None else None
    value, sums = ops.distance(settings.backend, dummy, target, found, batched, *numbers)
    return value, None, sums if cached is None else None


def _into(out: Sequence[Tensor] | None, slopes: Tensors | None) -> list[Tensor] | None:
    if out is None or slopes is None:
        return None if slopes is None else list(slopes)
    for place, slope in zip(out, slopes, strict=True):
        place.copy_(slope)
    return list(out)


def _scaled(settings: Settings, slopes: Tensors, grad: Tensor) -> list[Tensor]:
    """V times the gradient that flows into D, in place. It is 1 in nearly every loop: on the CPU that costs
    no synchronisation to see, and on a GPU a kernel looks and returns."""
    if torch.compiler.is_compiling() or settings.backend == "reference":
        rows = [grad.reshape(-1, *[1] * (s.dim() - 1)) if settings.batched else grad for s in slopes]
        return [slope.mul_(row.to(slope.dtype)) for slope, row in zip(slopes, rows, strict=True)]
    if grad.device.type != "cpu" or not (bool((grad == 1).all()) if grad.dim() else grad.item() == 1):
        ops.scale(settings.backend, slopes, grad, settings.batched)
    return list(slopes)


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
        ctx.settings = settings
        ctx.save_for_backward(*dummy, *target)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        slopes, ctx.slopes = ctx.slopes, None  # handed out once: its new owner may write to it
        if torch.is_grad_enabled() or slopes is None:
            tensors = ctx.saved_tensors
            slopes = DistanceGradient.apply(ctx.settings, grad, *tensors)
            return (None, None, None, None, *slopes)
        return (None, None, None, None, *_scaled(ctx.settings, slopes, grad))


class FunctionalDistance(torch.autograd.Function):
    """(dummy..., target...) -> D under torch.func transforms and torch.compile; V is formed in the
    backward pass. The rule for vmap folds the mapped dimension into the recoveries."""

    @staticmethod
    def forward(settings: Settings, *tensors: Tensor) -> Tensor:
        value, _, _ = evaluate(
            settings, tensors[: settings.count], tensors[settings.count :], None, gradient=False
        )
        return value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.settings = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        # Compiled graphs have no second derivatives, and tracing cannot follow a Function inside a Function.
        scaled = DistanceGradient.forward if torch.compiler.is_compiling() else DistanceGradient.apply
        slopes = scaled(ctx.settings, grad, *ctx.saved_tensors)
        return (None, *slopes, *[None] * (len(ctx.saved_tensors) - ctx.settings.count))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, settings: Settings, *tensors: Tensor) -> tuple[Tensor, int]:
        folded = _Fold(info.batch_size, settings, tensors, in_dims[1:])
        value = FunctionalDistance.apply(folded.settings, *folded.tensors)
        return folded.unfold(value), 0


class DistanceGradient(torch.autograd.Function):
    """(grad of D, dummy..., target...) -> V scaled by grad; differentiable through the eager formula."""

    @staticmethod
    def forward(settings: Settings, grad: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        _, slopes, _ = evaluate(
            settings, tensors[: settings.count], tensors[settings.count :], None, gradient=True
        )
        return tuple(_scaled(settings, slopes, grad))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.settings = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *slope_grads: Tensor) -> tuple:
        grad, *tensors = ctx.saved_tensors
        dummy, target = tensors[: ctx.settings.count], tensors[ctx.settings.count :]

        def first_derivative(grad: Tensor, *dummy: Tensor) -> tuple[Tensor, ...]:
            _, pull = torch.func.vjp(lambda *g: eager_distance(ctx.settings, g, target), *dummy)
            return pull(grad)

        _, pull = torch.func.vjp(first_derivative, grad, *dummy)
        return (None, *pull(slope_grads), *[None] * len(target))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, settings: Settings, grad: Tensor, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        folded = _Fold(info.batch_size, settings, tensors, in_dims[2:])
        grad = folded.fold(grad, in_dims[1], keep_shared=False)
        slopes = DistanceGradient.apply(folded.settings, grad, *folded.tensors)
        return tuple(folded.unfold(slope) for slope in slopes), (0,) * settings.count


class _Fold:
    """A mapped dimension of size B folded into the recoveries: [B, R, ...] -> [B·R, ...]."""

    def __init__(self, size: int, settings: Settings, tensors: Tensors, dims: Sequence[int | None]):
        count = settings.count
        self.size, self.batched = size, settings.batched
        lead = 1 if dims[0] == 0 else 0
        self.recoveries = tensors[0].shape[lead] if settings.batched else 1
        mapped_target = any(dim is not None for dim in dims[count:])
        target_lead = 1 if dims[count] == 0 else 0
        shared = not settings.batched or tensors[count].shape[target_lead] == 1
        keep_shared = shared and not mapped_target
        self.tensors = [
            self.fold(tensor, dim, keep_shared=keep_shared and i >= count)
            for i, (tensor, dim) in enumerate(zip(tensors, dims, strict=True))
        ]
        self.settings = replace(
            settings,
            batched=True,
            weights=self._rows(settings.weights),
            variance=self._rows(settings.variance),
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
        rows = option is not None and option.dim() == 2 and option.shape[0] > 1
        return option.repeat(self.size, 1) if rows else option

    def unfold(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (self.size, self.recoveries)) if self.batched else tensor
