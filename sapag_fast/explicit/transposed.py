"""The convolution itself, with shared weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def convolve(x: Tensor, module: nn.Conv1d | nn.Conv2d, padding: int | tuple[int, ...]) -> Tensor:
    """The module's convolution of x ``[R·B, C, ...]``."""
    function = F.conv1d if x.dim() == 3 else F.conv2d
    return function(x, module.weight, module.bias, module.stride, padding, module.dilation, module.groups)
