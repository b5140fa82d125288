"""The convolution itself, weights shared by the whole batch, with a quick way back to its input.

oneDNN is slow at the input's gradient of small convolutions, with a stride most of all. But it is itself a
convolution: of the output's gradient with the kernel turned around, for stride s with s·s kernels side by
side, one for each phase of the input's pixels, which a pixel shuffle puts in place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LARGE_WORK", "convolve", "has_large_work"]

LARGE_WORK = 3_000_000
"""Multiplications for one recovery from which on a call of oneDNN for each is worth its overhead."""


@dataclass(frozen=True)
class _Axis:
    """One dimension of the way back.

    Input pixel ``stride·q + phase`` takes output pixels ``q + low`` to ``q + high``; tap t of that window
    goes with kernel element ``element[phase][t]``, or none (-1).
    """

    low: int
    high: int
    element: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, kernel: int, stride: int, padding: int) -> _Axis:
        # Output o meets input h in kernel element i = h + padding - stride·o.
        offsets = []
        for phase in range(stride):
            first = (phase + padding) % stride
            ahead = (phase + padding) // stride
            offsets.append({ahead - m: i for m, i in enumerate(range(first, kernel, stride))})
        low = min(min(taps, default=0) for taps in offsets)
        high = max(max(taps, default=0) for taps in offsets)
        return cls(low, high, tuple(tuple(f.get(o, -1) for o in range(low, high + 1)) for f in offsets))


class _Way:
    """Forward and back through one convolution with fixed weights ``[O, C, kh, kw]`` (or ``[O, C, k]``)."""

    def __init__(self, module: nn.Conv1d | nn.Conv2d, padding: tuple[int, ...]) -> None:
        self.weight, self.version = module.weight, module.weight._version
        self.options = (module.stride, padding, module.dilation)
        self.groups = module.groups

    def is_for(self, weight: Tensor) -> bool:
        """Whether the weights are still those of this way."""
        return self.weight is weight and self.version == weight._version

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        function = F.conv1d if x.dim() == 3 else F.conv2d
        return function(x, self.weight, bias, *self.options, self.groups)

    def toward_input(self, slope: Tensor, x: Tensor) -> Tensor:
        """The input's gradient; of x only the shape counts."""
        none = (0,) * (x.dim() - 2)
        return torch.ops.aten.convolution_backward(
            slope, x, self.weight, None, *self.options, False, none, self.groups, (True, False, False)
        )[0]


class _ShortWay(_Way):
    """Back as a convolution forth: for two dimensions, one group, no dilation."""

    def __init__(self, module: nn.Conv1d | nn.Conv2d, padding: tuple[int, ...]) -> None:
        super().__init__(module, padding)
        weight = self.weight
        self.stride: tuple[int, int] = module.stride[0], module.stride[1]
        self.axes = [_Axis.of(*sizes) for sizes in zip(weight.shape[2:], self.stride, padding, strict=True)]
        rows, columns = (torch.tensor(axis.element, device=weight.device) for axis in self.axes)
        taps = weight[:, :, rows.clamp(min=0)][..., columns.clamp(min=0)]  # [O, C, sh, th, sw, tw]
        taps = taps * ((rows >= 0)[:, :, None, None] & (columns >= 0))
        # Channels outside, then both phases, as pixel_shuffle reads them.
        self.back = taps.permute(1, 2, 4, 0, 3, 5).flatten(0, 2).contiguous()

    def toward_input(self, slope: Tensor, x: Tensor) -> Tensor:
        size = x.shape[2:]
        lead, trail = [], []
        for axis, wanted, have, stride in zip(self.axes, size, slope.shape[2:], self.stride, strict=True):
            lead.append(-axis.low)
            trail.append((wanted - 1) // stride + axis.high - (have - 1))
        if lead == trail and min(lead) >= 0:
            padding = tuple(lead)
        else:
            slope = F.pad(slope, (lead[1], trail[1], lead[0], trail[0]))
            padding = (0, 0)
        toward = F.conv2d(slope, self.back, None, 1, padding)
        if self.stride != (1, 1):
            toward = _shuffled(toward, self.stride)
        return toward[..., : size[0], : size[1]]


def _shuffled(phases: Tensor, stride: tuple[int, int]) -> Tensor:
    """``[R·B, C·sh·sw, H, W]`` to ``[R·B, C, H·sh, W·sw]``."""
    if stride[0] == stride[1]:
        return F.pixel_shuffle(phases, stride[0])
    count, channels, height, width = phases.shape
    split = phases.view(count, -1, *stride, height, width).permute(0, 1, 4, 2, 5, 3)
    return split.reshape(count, channels // (stride[0] * stride[1]), height * stride[0], width * stride[1])


class _Forth(torch.autograd.Function):
    """x -> convolution; its derivative is `_Back`.

    PyTorch's own second derivative forms the weight's even where nobody asks for it, at the price of two
    convolutions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, way: _Way, bias: Tensor | None) -> Tensor:
        ctx.way, ctx.x = way, x.detach()
        return way.forward(x, bias)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return _Back.apply(slope, ctx.way, ctx.x), None, None


class _Back(torch.autograd.Function):
    """The output's gradient -> the input's; linear, so its derivative is `_Forth` without bias."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, way: _Way, x: Tensor) -> Tensor:
        ctx.way = way
        return way.toward_input(slope, x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return _Forth.apply(slope, ctx.way, None), None, None


def has_large_work(module: nn.Module, a: Tensor, output: torch.Size) -> bool:
    """Whether a convolution on the CPU is worth a call of oneDNN for each recovery."""
    if a.device.type != "cpu" or not isinstance(module, (nn.Conv1d, nn.Conv2d)):
        return False
    return math.prod(output[1:]) * module.weight[0].numel() >= LARGE_WORK


def _takes_short_way(x: Tensor, module: nn.Conv1d | nn.Conv2d) -> bool:
    """On the CPU, plain, with little work an image."""
    return (
        x.device.type == "cpu"
        and x.dim() == 4
        and module.groups == 1
        and module.dilation == (1, 1)
        and math.prod(x.shape[1:]) * module.weight[:, 0].numel()
        < LARGE_WORK * module.stride[0] * module.stride[1]
        and not x.is_contiguous(memory_format=torch.channels_last)
    )


_WAYS: WeakKeyDictionary[nn.Module, _Way] = WeakKeyDictionary()


def convolve(x: Tensor, module: nn.Conv1d | nn.Conv2d, padding: tuple[int, ...]) -> Tensor:
    """The module's convolution of x ``[R·B, C, ...]`` with `padding` in place of its own."""
    kind = _ShortWay if _takes_short_way(x, module) else _Way
    way = _WAYS.get(module)
    if type(way) is not kind or not way.is_for(module.weight):
        way = _WAYS[module] = kind(module, padding)
    return _Forth.apply(x, way, module.bias)
