"""The convolution itself, weights shared by the whole batch, with a quick way back to its input.

oneDNN is slow at the input's gradient of small convolutions, with a stride most of all. That gradient is a
convolution too: of the output's gradient with the kernel turned around, for stride s with s·s kernels side
by side, one for each phase of the input's pixels, which a pixel shuffle puts in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LARGE_WORK", "convolve"]

LARGE_WORK = 3_000_000
"""Multiplications for one recovery from which on a call of oneDNN for each is worth its overhead."""


@dataclass(frozen=True)
class _Axis:
    """One dimension of the way back: input pixel ``stride·q + phase`` takes output pixels ``q + low`` to
    ``q + high``; tap t of that window goes with kernel element ``element[phase][t]``, or none (-1).
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
        low = min(min(found, default=0) for found in offsets)
        high = max(max(found, default=0) for found in offsets)
        return cls(
            low, high, tuple(tuple(f.get(o, -1) for o in range(low, high + 1)) for f in offsets)
        )


class _Way:
    """Forward and back through one convolution with fixed weights ``[O, C, kh, kw]``."""

    def __init__(self, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> None:
        self.weight, self.stride, self.padding = weight, stride, padding
        self.version = weight._version
        self.axes = [_Axis.of(k, s, p) for k, s, p in zip(weight.shape[2:], stride, padding, strict=True)]
        rows, columns = (
            torch.tensor(axis.element, device=weight.device) for axis in self.axes
        )
        taps = weight[:, :, rows.clamp(min=0)][..., columns.clamp(min=0)]  # [O, C, sh, th, sw, tw]
        present = (rows >= 0)[:, :, None, None] & (columns >= 0)
        taps = taps * present
        # Channels outside, then both phases, as pixel_shuffle reads them.
        self.back = taps.permute(1, 2, 4, 0, 3, 5).flatten(0, 2).contiguous()

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, self.weight, bias, self.stride, self.padding)

    def toward_input(self, slope: Tensor, size: torch.Size) -> Tensor:
        lead, trail = [], []
        for axis, wanted, have, stride in zip(self.axes, size, slope.shape[2:], self.stride, strict=True):
            lead.append(-axis.low)
            trail.append((wanted - 1) // stride + axis.high - (have - 1))
        if lead == trail and min(lead) >= 0:
            padding = tuple(lead)
        else:
            slope = F.pad(slope, (lead[1], trail[1], lead[0], trail[0]))
            padding = (0, 0)
        found = F.conv2d(slope, self.back, None, 1, padding)
        if self.stride != (1, 1):
            found = _shuffled(found, self.stride)
        return found[..., : size[0], : size[1]]


def _shuffled(phases: Tensor, stride: tuple[int, int]) -> Tensor:
    """``[R·B, C·sh·sw, H, W]`` to ``[R·B, C, H·sh, W·sw]``."""
    if stride[0] == stride[1]:
        return F.pixel_shuffle(phases, stride[0])
    count, channels, height, width = phases.shape
    split = phases.view(count, -1, *stride, height, width).permute(0, 1, 4, 2, 5, 3)
    return split.reshape(count, channels // (stride[0] * stride[1]), height * stride[0], width * stride[1])


class _Forth(torch.autograd.Function):
    """x -> convolution; its derivative is `_Back`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, way: _Way, bias: Tensor | None) -> Tensor:
        ctx.way, ctx.size = way, x.shape[2:]
        return way.forward(x, bias)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return _Back.apply(slope, ctx.way, ctx.size), None, None


class _Back(torch.autograd.Function):
    """The output's gradient -> the input's; linear, so its derivative is `_Forth` without bias."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, way: _Way, size: torch.Size) -> Tensor:
        ctx.way = way
        return way.toward_input(slope, size)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return _Forth.apply(slope, ctx.way, None), None, None


def _is_small(x: Tensor, module: nn.Conv1d | nn.Conv2d) -> bool:
    """Whether the way back of our own pays: on the CPU, in two dimensions, plain, with little work an image."""
    return (
        x.device.type == "cpu"
        and x.dim() == 4
        and module.groups == 1
        and module.dilation == (1, 1)
        and x[0].numel() * module.weight[:, 0].numel() < LARGE_WORK * module.stride[0] * module.stride[1]
    )


def convolve(x: Tensor, module: nn.Conv1d | nn.Conv2d, padding: tuple[int, ...]) -> Tensor:
    """The module's convolution of x ``[R·B, C, ...]`` with `padding` in place of its own."""
    if _is_small(x, module):
        way = module.__dict__.get("_sapag_way")
        if way is None or way.weight is not module.weight or way.version != module.weight._version:
            way = _Way(module.weight, module.stride, padding)
            module.__dict__["_sapag_way"] = way
        return _Forth.apply(x, way, module.bias)
    function = F.conv1d if x.dim() == 3 else F.conv2d
    return function(x, module.weight, module.bias, module.stride, padding, module.dilation, module.groups)
