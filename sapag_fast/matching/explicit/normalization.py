"""Normalisation layers: y = weight·x̂ + bias, where x̂ is made of one recovery's inputs alone.

The module's forward is taken apart so that x̂ itself is captured as ``a``: the gradients are then products of
x̂ and b, and the way back through the normalisation is gone once, together with the network's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.matching.explicit.rules import LayerCall, Rule, register_rule

__all__ = ["BatchNormRule", "GroupNormRule", "InstanceNormRule", "LayerNormRule"]

BatchNorm = nn.modules.batchnorm._BatchNorm
InstanceNorm = nn.modules.instancenorm._InstanceNorm
Normalisation = nn.LayerNorm | nn.GroupNorm | BatchNorm | InstanceNorm


class AffineCall(LayerCall[Normalisation]):
    """weight and bias along one or more dimensions of a: ``[R, *shape]`` put at ``[R, *broadcast]``."""

    def __init__(self, *given: Any, broadcast: tuple[int, ...], **wants: bool) -> None:
        super().__init__(*given, **wants)
        self.broadcast = broadcast
        self.summed = [i for i in range(1, self.b.dim()) if broadcast[i - 1] == 1]

    def _sum(self, tensor: Tensor) -> Tensor:
        return tensor.sum(self.summed).view(tensor.shape[0], *self._shape())

    def _shape(self) -> tuple[int, ...]:
        return tuple(self.module.weight.shape)

    def _spread(self, weight: Tensor) -> Tensor:
        return weight.reshape(weight.shape[0], *self.broadcast)

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Sums of a·b and of b."""
        return {name: self._sum(self.b if name == "bias" else self.a * self.b) for name in names}

    def products(self, weights: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """V·b toward a; V·a and the bias's V toward b."""
        toward_a = toward_b = None
        if (weight := weights.get("weight")) is not None:
            weight = self._spread(weight)
            toward_a = self.b * weight if self.wants_a else None
            toward_b = self.a * weight if self.wants_b else None
        if (bias := weights.get("bias")) is not None and self.wants_b:
            bias = self._spread(bias)
            toward_b = bias.expand_as(self.b) if toward_b is None else toward_b.add_(bias)
        return toward_a, toward_b


def _affine(module: Normalisation, normal: Tensor, shape: tuple[int, ...]) -> Tensor:
    """weight·x̂ + bias with both of them viewed as `shape`."""
    if module.weight is None:
        return normal
    if module.bias is None:
        return normal * module.weight.view(shape)
    return torch.addcmul(module.bias.view(shape), normal, module.weight.view(shape))


class LayerNormRule(Rule):
    """``nn.LayerNorm``."""

    name = "layer-norm"

    def forward(
        self, module: nn.LayerNorm, original: Callable, recoveries: int, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Captures x̂."""
        normal = F.layer_norm(x, module.normalized_shape, None, None, module.eps)
        return _affine(module, normal, module.normalized_shape), normal

    def call(self, module: nn.LayerNorm, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool) -> LayerCall:
        """An affine map along the normalised dimensions."""
        lead = b.dim() - 1 - len(module.normalized_shape)
        broadcast = (*[1] * lead, *module.normalized_shape)
        return AffineCall(module, a, b, wants_a=wants_a, wants_b=wants_b, broadcast=broadcast)


def _channels(b: Tensor) -> tuple[int, ...]:
    """Where the channels of b ``[R, rows, C, ...]`` are."""
    return (1, b.shape[2], *[1] * (b.dim() - 3))


class GroupNormRule(Rule):
    """``nn.GroupNorm``."""

    name = "group-norm"

    def forward(
        self, module: nn.GroupNorm, original: Callable, recoveries: int, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Captures x̂."""
        normal = F.group_norm(x, module.num_groups, None, None, module.eps)
        return _affine(module, normal, (-1, *[1] * (x.dim() - 2))), normal

    def call(self, module: nn.GroupNorm, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool) -> LayerCall:
        """An affine map along the channels."""
        return AffineCall(module, a, b, wants_a=wants_a, wants_b=wants_b, broadcast=_channels(b))


class FrozenNormCall(AffineCall):
    """Batch normalisation by constant statistics: a is the raw input, x̂ = (a - mean) / deviation."""

    def __init__(self, *given: Any, **wants: Any) -> None:
        super().__init__(*given, **wants)
        module = cast(BatchNorm | InstanceNorm, self.module)
        mean, variance = _running(module)
        self.scale = (variance + module.eps).rsqrt()
        # Centred first: Σ a·b - mean·Σ b would lose digits where the mean is large.
        self.a = self.a - mean.view(self.broadcast)

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Sums of x̂·b and of b."""
        gradients = super().gradients(names)
        return {n: g * self.scale if n == "weight" else g for n, g in gradients.items()}

    def products(self, weights: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """As of x̂, scaled back."""
        return super().products({n: w * self.scale if n == "weight" else w for n, w in weights.items()})


class BatchNormRule(Rule):
    """``nn.BatchNorm1d``, ``2d``, ``3d``.

    In training mode with the statistics of one recovery's batch, never of two; running statistics are left
    alone.
    """

    name = "batch-norm"

    @staticmethod
    def _normal(module: BatchNorm | InstanceNorm, recoveries: int, x: Tensor) -> Tensor:
        """x̂ by statistics of x itself."""
        return _by_recovery(x, recoveries, module.eps)

    def forward(
        self, module: BatchNorm | InstanceNorm, original: Callable, recoveries: int, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Captures x̂, or x where the statistics are constant."""
        module._check_input_dim(x)
        shape = (-1, *[1] * (x.dim() - 2))
        if _own_statistics(module):
            normal = self._normal(module, recoveries, x)
            return _affine(module, normal, shape), normal
        mean, variance = _running(module)
        scale = (variance + module.eps).rsqrt()
        if module.weight is not None:
            scale = scale * module.weight
        shift = -mean * scale
        if module.bias is not None:
            shift = shift + module.bias
        return torch.addcmul(shift.view(shape), x, scale.view(shape)), x

    def call(
        self, module: BatchNorm | InstanceNorm, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool
    ) -> LayerCall:
        """An affine map along the channels, of x̂ or of x."""
        kind = AffineCall if _own_statistics(module) else FrozenNormCall
        return kind(module, a, b, wants_a=wants_a, wants_b=wants_b, broadcast=_channels(b))


class InstanceNormRule(BatchNormRule):
    """``nn.InstanceNorm1d``, ``2d``, ``3d``: each input's own statistics, or running ones."""

    name = "instance-norm"

    @staticmethod
    def _normal(module: BatchNorm | InstanceNorm, recoveries: int, x: Tensor) -> Tensor:
        if x.dim() == cast(InstanceNorm, module)._get_no_batch_dim():
            raise ValueError(f"{type(module).__name__} takes the batch for channels")
        return F.instance_norm(x, eps=module.eps)


def _own_statistics(module: BatchNorm | InstanceNorm) -> bool:
    return module.training or module.running_mean is None


def _running(module: BatchNorm | InstanceNorm) -> tuple[Tensor, Tensor]:
    """Mean and variance of a module that keeps them."""
    return cast(Tensor, module.running_mean), cast(Tensor, module.running_var)


def _by_recovery(x: Tensor, recoveries: int, eps: float) -> Tensor:
    """x̂ of ``[R·B, C, ...]``, normalised over each recovery's B inputs: recoveries become channels."""
    split = x.unflatten(0, (recoveries, -1)).transpose(0, 1)
    normal = F.batch_norm(split.flatten(1, 2), None, None, training=True, eps=eps)
    return normal.view(split.shape).transpose(0, 1).flatten(0, 1)


register_rule(nn.LayerNorm, LayerNormRule())
register_rule(nn.GroupNorm, GroupNormRule())
for _kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
    register_rule(_kind, BatchNormRule())
for _kind in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d):
    register_rule(_kind, InstanceNormRule())
