"""Residual networks of basic blocks: CIFAR's and ImageNet's forms, and those of gradient-leakage studies.

A stem, stages of blocks, an average pool and a linear layer, with their strides and sizes as options.
Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (2016), sections 3.3 and 4.2.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast import checks as check
from sapag_fast.models.activations import Activation, make_activation

__all__ = ["ResNet"]

Shortcut = Literal["pad", "projection"]
Norm = Literal["batch", "group", "none"]
Stem = Literal["3x3", "7x7"]

_GROUPS = 8
"""Of group normalisation; fewer where they do not divide the width."""


class _PaddedShortcut(nn.Module):
    """He's option A: every stride-th pixel, and channels of zeros on both sides."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = more // 2, more - more // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _convolution(inner: int, width: int, kernel: int, stride: int, norm: Norm) -> tuple[nn.Conv2d, nn.Module]:
    """A convolution that keeps the side (over its stride), and the normalisation after it."""
    convolution = nn.Conv2d(inner, width, kernel, stride, kernel // 2, bias=norm == "none")
    if norm == "batch":
        return convolution, nn.BatchNorm2d(width)
    return convolution, nn.GroupNorm(math.gcd(_GROUPS, width), width) if norm == "group" else nn.Identity()


class _Block(nn.Module):
    """The basic block: two 3x3 convolutions and a shortcut around them."""

    def __init__(
        self, inner: int, width: int, stride: int, activation: Activation, shortcut: Shortcut, norm: Norm
    ) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(inner, width, 3, stride, norm)
        self.act1 = make_activation(activation)
        self.conv2, self.norm2 = _convolution(width, width, 3, 1, norm)
        self.act2 = make_activation(activation)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or inner != width:
            self.short = (
                _PaddedShortcut(width - inner, stride)
                if shortcut == "pad"
                else nn.Sequential(*_convolution(inner, width, 1, stride, norm))
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.norm1(self.conv1(x)))
        return self.act2(self.norm2(self.conv2(y)) + self.short(x))


class ResNet(nn.Module):
    """Stages of basic blocks, one stage a width, then an average pool and a linear layer.

    The defaults are ResNet-20: every stage after the first at half the side, and the mean over the image
    before the linear layer. Input ``[B, channels, image_size, image_size]`` (with the global head of any
    `image_size`), output ``[B, classes]``. In training mode batch normalisation couples the images of a
    batch; `explicit` mode keeps recoveries apart in either.

    Parameters
    ----------
    channels, image_size, classes : int
        Of the images; and how many outputs.
    activation : str, module class, module or function
        See `activations.make_activation`.
    widths : tuple of int
        Channels of each stage.
    blocks : int or tuple of int
        Blocks of each stage; one number is every stage's.
    strides : tuple of int or None
        Stride of each stage's first block; None: 1, then 2 each. All of 1 keep every position, as the
        published re-implementation of SAPAG does.
    head : "global" or int
        Before the linear layer: the mean over the image, or an average pool of this side, flattened, which
        tells the linear layer where in the image its inputs are.
    shortcut : {"pad", "projection"}
        Where stride or width change: zeros (option A, without parameters), or a 1x1 convolution with
        normalisation.
    norm : {"batch", "group", "none"}
        After each convolution: batch normalisation, group normalisation (8 groups) or nothing (convolutions
        have biases then).
    stem : {"3x3", "7x7"}
        One convolution of stride 1 (CIFAR), or one of stride 2 and a maximum pool of stride 2 (ImageNet).

    Raises
    ------
    ValueError
        For options that do not fit; the message names the option, what was expected and what was found.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        image_size: int = 32,
        classes: int = 10,
        activation: Activation = nn.ReLU,
        widths: tuple[int, ...] = (16, 32, 64),
        blocks: int | tuple[int, ...] = 3,
        strides: tuple[int, ...] | None = None,
        head: Literal["global"] | int = "global",
        shortcut: Shortcut = "pad",
        norm: Norm = "batch",
        stem: Stem = "3x3",
    ) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("image_size", image_size), ("classes", classes)):
            check.check_count(name, size)
        if not (widths := check.check_integers("widths", widths, least=1)):
            raise ValueError("widths must hold at least one size, found none")
        check.check_choice("shortcut", shortcut, ("pad", "projection"))
        check.check_choice("norm", norm, ("batch", "group", "none"))
        check.check_choice("stem", stem, ("3x3", "7x7"))
        if shortcut == "pad" and list(widths) != sorted(widths):
            raise ValueError(f"widths: padded shortcuts cannot narrow, found {widths}")
        if not hasattr(blocks, "__iter__"):
            blocks = (check.check_count("blocks", blocks),) * len(widths)
        counts = _of_stages("blocks", blocks, widths)
        if strides is None:
            strides = (1,) + (2,) * (len(widths) - 1)
        strides = _of_stages("strides", strides, widths)
        kernel, stride = (3, 1) if stem == "3x3" else (7, 2)
        inner, side = widths[0], -(-image_size // stride)
        body: list[nn.Module] = [
            *_convolution(channels, inner, kernel, stride, norm),
            make_activation(activation),
        ]
        if stem == "7x7":
            body.append(nn.MaxPool2d(3, 2, 1))
            side = -(-side // 2)
        for width, count, stride in zip(widths, counts, strides, strict=True):
            for block in range(count):
                body.append(_Block(inner, width, 1 if block else stride, activation, shortcut, norm))
                inner = width
            side = -(-side // stride)
        self.body = nn.Sequential(*body)
        self.pool = _pool(head, side)
        pooled = 1 if self.pool is None else side // int(head)
        self.fc = nn.Linear(inner * pooled**2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, channels, image_size, image_size]``."""
        features = self.body(images)
        return self.fc(features.mean((2, 3)) if self.pool is None else self.pool(features).flatten(1))


def _of_stages(name: str, values: object, widths: tuple[int, ...]) -> tuple[int, ...]:
    """One number a stage."""
    numbers = check.check_integers(name, values, least=1)
    if len(numbers) != len(widths):
        raise ValueError(f"{name} must hold one number for each of the {len(widths)} widths, found {numbers}")
    return numbers


def _pool(head: str | int, side: int) -> nn.AvgPool2d | None:
    """The average pool before the linear layer, None for the mean over the image."""
    if isinstance(head, str):
        check.check_choice("head", head, ("global",), other="the side of an average pool")
        return None
    return nn.AvgPool2d(check.check_count("head", head, most=side))
