"""Residual networks in their CIFAR form.

A 3x3 stem without pooling after it, batch normalisation, the mean over the image before the classifier.
Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (2016), section 4.2.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast import checks as check
from sapag_fast.models.activations import Activation, make_activation

__all__ = ["ResNet"]

Shortcut = Literal["pad", "projection"]


class _PaddedShortcut(nn.Module):
    """He's option A: every stride-th pixel, and channels of zeros on both sides."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = more // 2, more - more // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class _Block(nn.Module):
    """The basic block: two 3x3 convolutions and a shortcut around them."""

    def __init__(
        self, inner: int, width: int, stride: int, activation: Activation, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = make_activation(activation)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = make_activation(activation)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or inner != width:
            self.short = (
                _PaddedShortcut(width - inner, stride)
                if shortcut == "pad"
                else nn.Sequential(nn.Conv2d(inner, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.norm1(self.conv1(x)))
        return self.act2(self.norm2(self.conv2(y)) + self.short(x))


class ResNet(nn.Module):
    """`blocks` basic blocks of each width, every width after the first at half the side.

    The defaults are ResNet-20. Widths 64, 128, 256, 512 with two blocks each and projections make ResNet-18.
    Input ``[B, channels, image_size, image_size]`` of any `image_size`, output ``[B, classes]``. In training
    mode batch normalisation couples the images of a batch; `explicit` mode keeps recoveries apart in either.

    Parameters
    ----------
    shortcut : {"pad", "projection"}
        Where the width changes: zeros (option A, without parameters) or a 1x1 convolution with normalisation.

    Raises
    ------
    ValueError
        For another shortcut, or padding that would have to narrow.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        image_size: int = 32,
        classes: int = 10,
        activation: Activation = nn.ReLU,
        widths: tuple[int, ...] = (16, 32, 64),
        blocks: int = 3,
        shortcut: Shortcut = "pad",
    ) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("image_size", image_size), ("classes", classes)):
            check.check_count(name, size)
        check.check_count("blocks", blocks)
        if not (widths := check.check_integers("widths", widths, least=1)):
            raise ValueError("widths must hold at least one size, found none")
        if shortcut not in ("pad", "projection"):
            raise ValueError(f"shortcut: expected 'pad' or 'projection', found {shortcut!r}")
        if shortcut == "pad" and list(widths) != sorted(widths):
            raise ValueError(f"widths: padded shortcuts cannot narrow, found {widths}")
        inner = widths[0]
        body: list[nn.Module] = [
            nn.Conv2d(channels, inner, 3, 1, 1, bias=False),
            nn.BatchNorm2d(inner),
            make_activation(activation),
        ]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                body.append(_Block(inner, width, stride, activation, shortcut))
                inner = width
        self.body = nn.Sequential(*body)
        self.fc = nn.Linear(inner, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, channels, image_size, image_size]``."""
        return self.fc(self.body(images).mean((2, 3)))
