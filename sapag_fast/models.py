"""Small victim networks from the gradient-leakage literature and their named weight initialisations."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["INITIALISATIONS", "ConvNet", "LeNet", "initialise"]


class LeNet(nn.Module):
    """The LeNet that DLG attacks: three 5x5 convolutions with 12 channels and one linear layer.

    Source: Zhu, Liu, Han, "Deep Leakage from Gradients" (2019), section 4; strides 2, 2, 1 and a smooth
    activation. Input ``[B, channels, image_size, image_size]``, output ``[B, classes]``.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        image_size: int = 28,
        classes: int = 10,
        activation: Callable[[], nn.Module] = nn.Sigmoid,
        width: int = 12,
    ) -> None:
        super().__init__()
        strides = (2, 2, 1)
        body: list[nn.Module] = []
        inner, side = channels, image_size
        for stride in strides:
            body += [nn.Conv2d(inner, width, kernel_size=5, padding=2, stride=stride), activation()]
            inner, side = width, (side - 1) // stride + 1
        self.body = nn.Sequential(*body)
        self.fc = nn.Linear(width * side * side, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(images).flatten(1))


class ConvNet(nn.Module):
    """A small ReLU network: 3x3 convolutions 32-32-64-64 (the second and fourth with stride 2), one linear
    layer.

    Input ``[B, channels, image_size, image_size]``, output ``[B, classes]``.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        image_size: int = 32,
        classes: int = 10,
        activation: Callable[[], nn.Module] = nn.ReLU,
        widths: tuple[int, int, int, int] = (32, 32, 64, 64),
    ) -> None:
        super().__init__()
        body: list[nn.Module] = []
        inner, side = channels, image_size
        for width, stride in zip(widths, (1, 2, 1, 2), strict=True):
            body += [nn.Conv2d(inner, width, kernel_size=3, padding=1, stride=stride), activation()]
            inner, side = width, (side - 1) // stride + 1
        self.body = nn.Sequential(*body)
        self.fc = nn.Linear(inner * side * side, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(images).flatten(1))


def _fans(weight: Tensor) -> tuple[int, int]:
    receptive = math.prod(weight.shape[2:])
    return weight.shape[1] * receptive, weight.shape[0] * receptive


def _uniform(parameter: Tensor, generator: torch.Generator) -> None:
    parameter.uniform_(-0.5, 0.5, generator=generator)


def _normal(std: float) -> Callable[[Tensor, torch.Generator], None]:
    def fill(parameter: Tensor, generator: torch.Generator) -> None:
        parameter.normal_(0.0, std, generator=generator)

    return fill


def _xavier(parameter: Tensor, generator: torch.Generator) -> None:
    if parameter.dim() < 2:
        parameter.zero_()
        return
    bound = math.sqrt(6.0 / sum(_fans(parameter)))
    parameter.uniform_(-bound, bound, generator=generator)


def _kaiming(parameter: Tensor, generator: torch.Generator) -> None:
    if parameter.dim() < 2:
        parameter.zero_()
        return
    bound = math.sqrt(6.0 / _fans(parameter)[0])
    parameter.uniform_(-bound, bound, generator=generator)


_FILLS: dict[str, Callable[[Tensor, torch.Generator], None]] = {
    "uniform": _uniform,
    "normal.1": _normal(0.1),
    "normal.5": _normal(0.5),
    "xavier": _xavier,
    "kaiming": _kaiming,
}

INITIALISATIONS: tuple[str, ...] = (*_FILLS, "default")
"""Names that `initialise` accepts."""


def initialise(model: nn.Module, name: str, *, seed: int = 0) -> nn.Module:
    """Draw every weight and bias of `model` anew, in place, and return it.

    ``uniform`` is U(-.5, .5) for weights and biases (as in DLG's code), ``normal.1`` and ``normal.5`` are
    normal with that standard deviation, ``xavier`` and ``kaiming`` are the uniform forms of Glorot and He
    with zero biases, ``default`` is what the modules' own ``reset_parameters`` draws. The numbers are drawn
    on the CPU from `seed`, so they do not depend on the device, and the global generator is left as it was.

    Normalisation layers keep their ones and zeros under every name: their scale is no weight in the sense of
    these schemes.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name not in INITIALISATIONS:
        raise ValueError(f"unknown initialisation {name!r}; expected one of {', '.join(INITIALISATIONS)}")
    draft = copy.deepcopy(model).cpu()
    if name == "default":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in draft.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
    else:
        generator = torch.Generator().manual_seed(seed)
        norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
        with torch.no_grad():
            for module in draft.modules():
                for parameter in module.parameters(recurse=False):
                    if not isinstance(module, norms):
                        _FILLS[name](parameter, generator)
    model.load_state_dict(draft.state_dict())
    return model
