"""Networks that see all of a digit, or a part of it, by operators that certificates know and by others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.recovery.fixed_weights import FIXED, PIXELS, Fixed
from benchmarks.recovery.identifiability import convolutions
from sapag_fast.models import initialise, make_model

__all__ = ["BLIND", "SEEN", "STRANGE"]

Build = Callable[[], nn.Module]


class Between(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Patches(nn.Module):
    """Attention among patches of 7 by 7, without positions, and their mean."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed, self.mixed = nn.Linear(49, width), nn.Linear(width, 3 * width)
        self.up, self.fc = nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(F.unfold(x, 7, stride=7).mT).sigmoid()
        query, key, value = self.mixed(patches).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.fc(self.up(patches + mixed).sigmoid().mean(1))


def perceptron(inputs: int = PIXELS, *, first: nn.Module | None = None) -> nn.Module:
    """Three linear layers with sigmoids."""
    before = [] if first is None else [first]
    return nn.Sequential(
        *before, nn.Flatten(), nn.Linear(inputs, 128), nn.Sigmoid(), nn.Linear(128, 64), nn.Sigmoid(),
        nn.Linear(64, 10),
    )  # fmt: skip


def lenet(*first: nn.Module, side: int = 28, stride: int = 2) -> nn.Module:
    """Three convolutions and a linear layer behind what comes first, which leaves a picture of that side."""
    layers: list[nn.Module] = [nn.Conv2d(1, 12, 5, stride, 2), nn.Sigmoid()]
    for strided in (2, 1):
        layers += [nn.Conv2d(12, 12, 5, strided, 2), nn.Sigmoid()]
    with torch.no_grad():
        features = nn.Sequential(*layers)(torch.zeros(1, 1, side, side)).numel()
    return nn.Sequential(*first, *layers, nn.Flatten(), nn.Linear(features, 10))


def waves(count: int) -> Tensor:
    """The lowest `count` by `count` cosine waves, ``[count ** 2, PIXELS]``."""
    places = (torch.arange(28) + 0.5) * torch.pi / 28
    lines = torch.cos(torch.arange(count)[:, None] * places) * (2 / 28) ** 0.5
    return torch.einsum("ai,bj->abij", lines, lines).reshape(count**2, PIXELS)


def mirrored() -> Tensor:
    """The mean of a picture and its mirror image."""
    identity = torch.eye(PIXELS)
    return (identity + identity.view(-1, 28, 28).flip(2).flatten(1)) / 2


def masked() -> Tensor:
    """Half of the pixels, drawn, are zero."""
    return torch.diag((torch.rand(PIXELS) < 0.5).float())


def holed(rows: slice, columns: slice) -> Tensor:
    """A rectangle of zeros."""
    seen = torch.ones(28, 28)
    seen[rows, columns] = 0.0
    return torch.diag(seen.flatten())


def moved() -> Tensor:
    """A kernel that takes one pixel out of 9 by 9: the border is lost."""
    kernel = torch.zeros(1, 1, 9, 9)
    kernel[0, 0, 2, 2] = 1.0
    return kernel


def changed(build: Build, change: Callable[[nn.Module], None]) -> Build:
    """A network of other weights."""

    def made() -> nn.Module:
        network = build()
        with torch.no_grad():
            change(network)
        return network

    return made


def _dead_filters(network: nn.Module) -> None:
    """A first layer with one living filter of 12."""
    network[0].weight[1:] = 0.0
    network[0].bias[1:] = -30.0


def _no_first_layer(network: nn.Module) -> None:
    network[0].weight.zero_()


def _saturated(network: nn.Module) -> None:
    network[0].weight.mul_(100.0)


def _frozen(network: nn.Module) -> None:
    network[1].requires_grad_(False)


def average_at_the_end() -> nn.Module:
    """A fixed convolution that averages the last picture of features."""
    mean = torch.eye(12)[:, :, None, None].expand(-1, -1, 7, 7) / 49
    body = list(lenet())[:-1]
    return nn.Sequential(*body[:-1], Fixed(mean.contiguous()), nn.Flatten(), nn.Linear(12, 10))


SEEN: dict[str, Build] = {
    **{
        f"LeNet, {name} weights": lambda name=name: initialise(
            make_model("lenet", image_size=28, seed=int(torch.randint(1000, ()))), name
        )
        for name in ("default", "uniform", "normal.1", "kaiming")
    },
    "LeNet of five layers": lambda: make_model("lenet4", image_size=28, seed=int(torch.randint(1000, ()))),
    "MLP": lambda: make_model("mlp", image_size=28, seed=int(torch.randint(1000, ()))),
    "MLP of 128 and 64": perceptron,
    "three strides": lambda: lenet(stride=1),
}
"""The gradient determines the digit, and certificates know all operators."""

BLIND: dict[str, Build] = {
    "stride that skips, kernel 1": lambda: convolutions((1, 2, 0), (5, 1, 2), (3, 1, 1)),
    "stride that skips, kernel 3": lambda: convolutions((3, 5, 0), (3, 1, 1), (3, 1, 1)),
    "dilation and stride 2": lambda: nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 2, dilation=2), *list(lenet(side=14))[0:0],
        nn.Sigmoid(), nn.Conv2d(12, 12, 5, 2, 2), nn.Sigmoid(), nn.Conv2d(12, 12, 5, 1, 2), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(12 * 49, 10),
    ),
    "pooling by a fixed convolution": lambda: lenet(Fixed(torch.ones(1, 1, 4, 4) / 16, stride=4), side=7),
    "pooling of 2 by a fixed convolution": lambda: lenet(
        Fixed(torch.ones(1, 1, 2, 2) / 4, stride=2), side=14
    ),
    "a blur of fixed weights": lambda: lenet(Fixed(torch.ones(1, 1, 5, 5) / 25, padding=2)),
    "a crop by a fixed convolution": lambda: lenet(Fixed(moved()), side=20),
    "low waves by a fixed matrix": lambda: perceptron(100, first=Fixed(waves(10))),
    "random projection to 100 numbers": lambda: perceptron(
        100, first=Fixed(torch.randn(100, PIXELS) / 28)
    ),
    "random projection to 600 numbers": lambda: perceptron(
        600, first=Fixed(torch.randn(600, PIXELS) / 28)
    ),
    "half of the pixels masked by a fixed matrix": lambda: perceptron(first=Fixed(masked())),
    "a hole of 5 by 5": lambda: perceptron(first=Fixed(holed(slice(12, 17), slice(12, 17)))),
    "a hole of 8 by 8": lambda: perceptron(first=Fixed(holed(slice(10, 18), slice(10, 18)))),
    "a hole of 8 by 8 before a LeNet": lambda: lenet(Fixed(holed(slice(10, 18), slice(10, 18)))),
    "a hole of 12 by 12 before a LeNet": lambda: lenet(Fixed(holed(slice(8, 20), slice(8, 20)))),
    "four rows unseen": lambda: perceptron(first=Fixed(holed(slice(12, 16), slice(0, 28)))),
    "four rows unseen before a LeNet": lambda: lenet(Fixed(holed(slice(12, 16), slice(0, 28)))),
    "random projection to 700 numbers": lambda: perceptron(700, first=Fixed(torch.randn(700, PIXELS) / 28)),
    "the mean of the picture and its mirror image": lambda: perceptron(first=Fixed(mirrored())),
    "a first layer that is not trained": changed(perceptron, _frozen),
    "one living filter of twelve": changed(lenet, _dead_filters),
    "first filters of zero": changed(lenet, _no_first_layer),
    "saturated first filters": changed(lenet, _saturated),
    "features averaged by a fixed convolution": average_at_the_end,
}  # fmt: skip
"""The gradient may leave a part of the digit open, and certificates know all operators."""

STRANGE: dict[str, Build] = {
    **{f"fixed weights without {seen}": build for seen, build in FIXED.items()},
    "pixels in another order by a fixed matrix": lambda: perceptron(
        first=Fixed(torch.eye(PIXELS)[torch.randperm(PIXELS)])
    ),
    "a crop": lambda: lenet(nn.ZeroPad2d(-4), side=20),
    "average pooling first": lambda: lenet(nn.AvgPool2d(4), side=7),
    "max pooling first": lambda: lenet(nn.MaxPool2d(2), side=14),
    "a smaller picture": lambda: lenet(nn.Upsample(scale_factor=0.5), side=14),
    "global average pooling": lambda: nn.Sequential(
        *list(lenet())[:-2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)
    ),
    "BatchNorm in training mode": lambda: lenet(nn.BatchNorm2d(1)),
    "LayerNorm of the picture": lambda: perceptron(first=nn.LayerNorm([1, 28, 28])),
    "InstanceNorm of the picture": lambda: lenet(nn.InstanceNorm2d(1)),
    "dropout of the input": lambda: perceptron(first=nn.Dropout(0.5)),
    "attention without positions": Patches,
    "a mask": lambda: lenet(Between(lambda x: x * (torch.arange(28) % 2))),
    "a part of the picture": lambda: lenet(Between(lambda x: x[..., 4:24, 4:24]), side=20),
    "sorted pixels": lambda: perceptron(first=Between(lambda x: x.flatten(1).sort(1).values)),
    "sizes of the waves": lambda: perceptron(first=Between(lambda x: torch.fft.fft2(x).abs() / 28)),
    "values clamped": lambda: perceptron(first=Between(lambda x: x.clamp(0.4, 0.6))),
    "a threshold": lambda: perceptron(first=Between(lambda x: (x - 0.5).relu())),
    "squares": lambda: perceptron(first=Between(lambda x: (x - 0.5).square())),
    "columns only": lambda: perceptron(28, first=Between(lambda x: x.mean(2))),
    "a linear layer without bias first": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(PIXELS, 32, bias=False), nn.Sigmoid(), nn.Linear(32, 32), nn.Sigmoid(),
        nn.Linear(32, 10),
    ),
    "ReLU": lambda: make_model("lenet", image_size=28, activation=nn.ReLU),
    "tanh": lambda: make_model("lenet", image_size=28, activation=nn.Tanh),
}  # fmt: skip
"""Operators that no certificate knows."""
