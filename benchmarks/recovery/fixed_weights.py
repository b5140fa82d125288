"""Networks behind fixed linear maps that take a few directions out of a picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.models import make_model

__all__ = ["FIXED", "Fixed"]

SIDE = 28
PIXELS = SIDE * SIDE


class Fixed(nn.Module):
    """Fixed weights, linear or convolutional by their shape; a square matrix keeps the picture's shape."""

    def __init__(self, weight: Tensor, **options: int) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.zeros(len(weight)))
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            seen = F.linear(x.flatten(1), self.weight, self.bias)
            return seen.view(x.shape) if len(self.weight) == PIXELS else seen
        return F.conv2d(x, self.weight, self.bias, **self.options)


def _lenet(first: nn.Module, side: int = SIDE) -> nn.Module:
    drawn = int(torch.randint(1000, ()))
    return nn.Sequential(first, make_model("lenet", channels=1, image_size=side, seed=drawn))


def without(*directions: Tensor) -> Callable[[], nn.Module]:
    """A LeNet behind the projection that takes out these pictures ``[28, 28]``."""

    def build() -> nn.Module:
        kept = torch.linalg.qr(torch.stack([d.flatten() for d in directions], 1).double()).Q
        return _lenet(Fixed((torch.eye(PIXELS, dtype=torch.float64) - kept @ kept.T).float()))

    return build


def _laplace() -> nn.Module:
    kernel = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])
    return _lenet(Fixed(kernel[None, None]), SIDE - 2)


_LINE = torch.linspace(-1.0, 1.0, SIDE)
_DOWN, _ACROSS = _LINE[:, None].expand(SIDE, SIDE), _LINE[None, :].expand(SIDE, SIDE)
_FLAT = torch.ones(SIDE, SIDE)


def _wave(down: int, across: int) -> Tensor:
    place = (torch.arange(SIDE) + 0.5) * torch.pi / SIDE
    return torch.cos(down * place)[:, None] * torch.cos(across * place)


def _row(at: int) -> list[Tensor]:
    return [_pixel(at, column) for column in range(SIDE)]


def _pixel(row: int, column: int) -> Tensor:
    picture = torch.zeros(SIDE, SIDE)
    picture[row, column] = 1.0
    return picture


def _tile(row: int, column: int) -> Tensor:
    picture = torch.zeros(SIDE, SIDE)
    picture[7 * row : 7 * row + 7, 7 * column : 7 * column + 7] = 1.0
    return picture


FIXED: dict[str, Callable[[], nn.Module]] = {
    "brightness": without(_FLAT),
    "brightness and slopes": without(_FLAT, _DOWN, _ACROSS),
    "the plane, by a Laplace filter": _laplace,
    "nine polynomials": without(*(_DOWN**i * _ACROSS**j for i in range(3) for j in range(3))),
    "one wave": without(_wave(2, 3)),
    "the waves of five half periods down": without(*(_wave(5, j) for j in range(SIDE))),
    "one row": without(*_row(14)),
    "two rows": without(*_row(13), *_row(14)),
    "the means of tiles of 7 by 7": without(*(_tile(i, j) for i in range(4) for j in range(4))),
    "the means of rows": without(*(sum(_row(i), torch.zeros(SIDE, SIDE)) for i in range(SIDE))),
    "a spot in the middle": without(torch.exp(-4.0 * (_DOWN.square() + _ACROSS.square()))),
}
"""What each network does not see."""
