"""Calls of convolutions: a linear layer over patches.

The patches are laid out once, with the channels innermost, and serve the gradient and both products.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.matching.explicit.rules import LayerCall

__all__ = ["ConvolutionCall", "LargeConvolutionCall", "own_padding"]

_FEW_CHANNELS = 8  # below, folding patches beats a grouped transposed convolution on the CPU


@dataclass(frozen=True)
class _Geometry:
    """Of a two-dimensional convolution; a one-dimensional one has height 1."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, module: nn.Conv1d | nn.Conv2d) -> _Geometry:
        padding = own_padding(module) or (0,) * len(module.kernel_size)
        kernel, stride, padding, dilation = (
            (size[0], size[1]) if len(size) == 2 else (rest, size[0])
            for rest, size in zip(
                (1, 1, 0, 1), (module.kernel_size, module.stride, padding, module.dilation), strict=True
            )
        )
        return cls(kernel, stride, padding, dilation, module.groups)


def own_padding(module: nn.Conv1d | nn.Conv2d) -> tuple[int, ...] | None:
    """The padding that the convolution proper does; None where the input is padded before it is captured."""
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    return module.padding


class ConvolutionCall(LayerCall[nn.Conv1d | nn.Conv2d]):
    """a ``[R, B, C, (H,) W]``, b ``[R, B, O, (H',) W']``; N = B·H'·W' rows, K = C/groups·kernel."""

    def __init__(self, *given: Any, **wants: bool) -> None:
        super().__init__(*given, **wants)
        self.geometry = _Geometry.of(self.module)
        self.recoveries, self.batch = self.a.shape[:2]
        self.planes = self.a.unsqueeze(3) if self.a.dim() == 4 else self.a
        self.output = tuple(self.b.unsqueeze(3).shape[3:] if self.b.dim() == 4 else self.b.shape[3:])
        self.patches: Tensor | None = None

    def _windows(self, planes: Tensor) -> Tensor:
        """A view of zero-padded ``[R·B, H, W, C]``: ``[R, B, H', W', kh, kw, groups, C/groups]``."""
        own = self.geometry
        (kh, kw), (sh, sw), (dh, dw) = own.kernel, own.stride, own.dilation
        channels = planes.shape[-1] // own.groups
        s = planes.stride()
        shape = (self.recoveries, self.batch, *self.output, kh, kw, own.groups, channels)
        steps = (s[0] * self.batch, s[0], s[1] * sh, s[2] * sw, s[1] * dh, s[2] * dw, channels, 1)
        return planes.as_strided(shape, steps)

    def _padded(self, name: str) -> Tensor:
        """Memory ``[R·B, H + 2 ph, W + 2 pw, C]``."""
        _, _, channels, height, width = self.planes.shape
        ph, pw = self.geometry.padding
        return self.reused(name, self.recoveries * self.batch, height + 2 * ph, width + 2 * pw, channels)

    def _interior(self, padded: Tensor) -> Tensor:
        ph, pw = self.geometry.padding
        height, width = self.planes.shape[3:]
        return padded[:, ph : ph + height, pw : pw + width]

    def _patches(self) -> Tensor:
        """``[R·groups, N, kh·kw·C/groups]``."""
        if self.patches is None:
            planes = self.planes.flatten(0, 1).permute(0, 2, 3, 1)
            if any(self.geometry.padding):
                padded = self._padded("padded").zero_()
                self._interior(padded).copy_(planes)
            else:
                padded = planes.contiguous()
            windows = self._windows(padded)
            rows = self.batch * self.output[0] * self.output[1]
            inner = self.geometry.kernel[0] * self.geometry.kernel[1] * windows.shape[-1]
            windows = windows.permute(0, 6, 1, 2, 3, 4, 5, 7)
            memory = self.reused("patches", self.recoveries * self.geometry.groups, rows, inner)
            memory.view(windows.shape).copy_(windows)
            self.patches = memory
        return self.patches

    def _outputs(self) -> Tensor:
        """The output's gradient as ``[R·groups, O/groups, N]``."""
        groups = self.geometry.groups
        split = self.b.reshape(self.recoveries, self.batch, groups, -1, self.output[0] * self.output[1])
        return split.permute(0, 2, 3, 1, 4).reshape(self.recoveries * groups, split.shape[3], -1)

    def _as_outputs(self, rows: Tensor) -> Tensor:
        """Back from ``[R·groups, O/groups, N]`` to the shape of b."""
        groups = self.geometry.groups
        split = rows.view(self.recoveries, groups, -1, self.batch, self.output[0] * self.output[1])
        return split.permute(0, 3, 1, 2, 4).reshape(self.b.shape)

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The weight's with the channels innermost."""
        gradients = {}
        for name in names:
            if name == "bias":
                gradients[name] = self.b.flatten(3).sum((1, 3))
            else:
                outputs, patches = self._outputs(), self._patches()
                memory = self.reused(name, *outputs.shape[:2], patches.shape[2])
                weight = torch.bmm(outputs, patches, out=memory)
                gradients[name] = weight.view(self.recoveries, *_inner_channels(self.module.weight.shape))
        return gradients

    def products(self, weights: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """B V toward a, folded; A Vᵀ and the bias's V toward b."""
        toward_a = toward_b = None
        if (weight := weights.get("weight")) is not None:
            groups = self.recoveries * self.geometry.groups
            matrix = weight.reshape(groups, weight.shape[1] // self.geometry.groups, -1)
            if self.wants_b:
                toward_b = self._toward_output(matrix)
            if self.wants_a:
                toward_a = self._toward_input(matrix)
        if (bias := weights.get("bias")) is not None and self.wants_b:
            bias = bias.view(self.recoveries, 1, -1, *[1] * (self.b.dim() - 3))
            toward_b = bias.expand_as(self.b) if toward_b is None else toward_b.add_(bias)
        return toward_a, toward_b

    def _toward_output(self, matrix: Tensor) -> Tensor:
        return self._as_outputs(torch.bmm(matrix, self._patches().transpose(1, 2)))

    def _toward_input(self, matrix: Tensor) -> Tensor:
        own = self.geometry
        if self.a.device.type != "cpu" or self.planes.shape[2] // own.groups < _FEW_CHANNELS:
            outputs = self._outputs().transpose(1, 2)
            memory = self.reused("products", *outputs.shape[:2], matrix.shape[2])
            return self._fold(torch.bmm(outputs, matrix, out=memory))
        kh, kw = own.kernel
        weight = matrix.view(-1, kh, kw, self.planes.shape[2] // own.groups).permute(0, 3, 1, 2).contiguous()
        height, width = self.planes.shape[3:]
        outputs = self.b.reshape(self.recoveries, self.batch, -1, *self.output).transpose(0, 1).flatten(1, 2)
        # Only the shape of the input counts for this.
        shaped = self.reused("shape", self.batch, self.recoveries * self.planes.shape[2], height, width)
        toward, _, _ = torch.ops.aten.convolution_backward(
            outputs,
            shaped,
            weight,
            None,
            own.stride,
            own.padding,
            own.dilation,
            False,
            (0, 0),
            self.recoveries * own.groups,
            (True, False, False),
        )
        toward = toward.view(self.batch, self.recoveries, -1, height, width).transpose(0, 1)
        return toward.reshape(self.a.shape)

    def _fold(self, patches: Tensor) -> Tensor:
        """Add patches ``[R·groups, N, K]`` up where they came from, as a."""
        own = self.geometry
        (kh, kw), (sh, sw), (dh, dw), (oh, ow) = own.kernel, own.stride, own.dilation, self.output
        padded = self._padded("folded").zero_()
        split = patches.view(self.recoveries, own.groups, self.batch, oh, ow, kh, kw, -1)
        if own.groups > 1:
            split = split.movedim(1, -2)
        split = split.reshape(self.recoveries * self.batch, oh, ow, kh, kw, -1)
        for i in range(kh):
            for j in range(kw):
                top, left = i * dh, j * dw
                padded[:, top : top + (oh - 1) * sh + 1 : sh, left : left + (ow - 1) * sw + 1 : sw] += split[
                    :, :, :, i, j
                ]
        # A copy: the memory is written to again.
        return (
            self._interior(padded)
            .permute(0, 3, 1, 2)
            .clone(memory_format=torch.contiguous_format)
            .view(self.a.shape)
        )

    def rows(self, name: str) -> tuple[Tensor, Tensor]:
        """The patches, and b by output pixel."""
        return self._patches(), self._outputs().transpose(1, 2)

    def from_rows(
        self, toward_rows_a: Tensor | None, toward_rows_b: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Patches folded, output pixels in the shape of b."""
        return (
            None if toward_rows_a is None else self._fold(toward_rows_a),
            None if toward_rows_b is None else self._as_outputs(toward_rows_b.transpose(1, 2).contiguous()),
        )


def _inner_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    """``[O, C, *kernel]`` as ``[O, *kernel, C]``."""
    return (shape[0], *shape[2:], shape[1])


class LargeConvolutionCall(ConvolutionCall):
    """Large enough for a call of oneDNN for each recovery.

    That is faster than patches and products of matrices. Channels are innermost throughout.
    """

    def _backward(self, row: int, weight: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
        own = self.geometry
        a, b = (
            t.contiguous(memory_format=torch.channels_last) for t in (self.planes[row], self._slopes(row))
        )
        toward_a, toward_weight, _ = torch.ops.aten.convolution_backward(
            b,
            a,
            weight,
            None,
            own.stride,
            own.padding,
            own.dilation,
            False,
            (0, 0),
            own.groups,
            (*wanted, False),
        )
        return toward_a, toward_weight

    def _slopes(self, row: int) -> Tensor:
        return self.b[row].view(self.batch, -1, *self.output)

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The weight's with the channels innermost, one recovery after the other."""
        names = list(names)
        gradients = super().gradients(n for n in names if n == "bias")
        if "weight" in names:
            weight = self.module.weight
            like = weight.unsqueeze(2) if weight.dim() == 3 else weight
            like = like.contiguous(memory_format=torch.channels_last)
            result = self.reused("weight", self.recoveries, *_inner_channels(like.shape))
            for row in range(self.recoveries):
                result[row] = self._backward(row, like, (False, True))[1].permute(0, 2, 3, 1)
            gradients["weight"] = result.view(self.recoveries, *_inner_channels(weight.shape))
        return gradients

    def _toward_output(self, matrix: Tensor) -> Tensor:
        own = self.geometry
        result = torch.empty_like(self.b)
        for row, weight in enumerate(self._kernels(matrix)):
            planes = self.planes[row].contiguous(memory_format=torch.channels_last)
            toward = F.conv2d(planes, weight, None, own.stride, own.padding, own.dilation, own.groups)
            result[row] = toward.view(result[row].shape)
        return result

    def _toward_input(self, matrix: Tensor) -> Tensor:
        result = torch.empty_like(self.a)
        for row, weight in enumerate(self._kernels(matrix)):
            result[row] = self._backward(row, weight, (True, False))[0].view(result[row].shape)
        return result

    def _kernels(self, matrix: Tensor) -> Tensor:
        """``[R, O, C/groups, kh, kw]`` of ``[R·groups, O/groups, K]``, channels innermost in memory."""
        channels = self.planes.shape[2] // self.geometry.groups
        split = matrix.view(self.recoveries, -1, *self.geometry.kernel, channels)
        return split.permute(0, 1, 4, 2, 3)
