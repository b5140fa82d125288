"""The rule of convolutions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.matching.explicit.convolution_calls import (
    ConvolutionCall,
    LargeConvolutionCall,
    own_padding,
)
from sapag_fast.matching.explicit.rules import LayerCall, Rule, register_rule
from sapag_fast.matching.explicit.shared_convolution import convolve, has_large_work

__all__ = ["ConvolutionRule"]


class ConvolutionRule(Rule):
    """``nn.Conv1d`` and ``nn.Conv2d``, with groups, stride, dilation and every padding."""

    name = "convolution"

    def refusal(self, module: nn.Conv1d | nn.Conv2d) -> str | None:
        """A subclass may convolve in its own way."""
        kind, base = type(module), nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Conv1d
        if kind._conv_forward is not base._conv_forward:
            return f"{kind.__name__} has a forward of its own"
        return None

    def matrices_of(self, module: nn.Conv1d | nn.Conv2d) -> frozenset[str]:
        """The weight of a single group."""
        return frozenset({"weight"}) if module.groups == 1 else frozenset()

    def forward(
        self, module: nn.Conv1d | nn.Conv2d, original: Callable, recoveries: int, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pad first where the convolution proper does not; its input is what is captured."""
        padding = own_padding(module)
        if padding is None:
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
            padding = (0,) * len(module.kernel_size)
        return convolve(x, module, padding), x

    def call(
        self, module: nn.Conv1d | nn.Conv2d, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool
    ) -> LayerCall:
        """A call by patches, or by oneDNN where one recovery has enough work."""
        kind = LargeConvolutionCall if has_large_work(module, a, b.shape[1:]) else ConvolutionCall
        return kind(module, a, b, wants_a=wants_a, wants_b=wants_b)

    def layout(self, name: str, gradient: Tensor) -> Tensor:
        """The weight's gradient with the channels innermost."""
        return gradient.movedim(2, -1).contiguous() if name == "weight" else gradient

    def plain_layout(self, name: str, gradient: Tensor) -> Tensor:
        """The channels back behind the outputs."""
        return gradient.movedim(-1, 2) if name == "weight" else gradient


register_rule(nn.Conv1d, ConvolutionRule())
register_rule(nn.Conv2d, ConvolutionRule())
