"""A ReLU network without pooling or normalisation."""

from __future__ import annotations

from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.models.activations import Activation, make_activation

__all__ = ["ConvNet"]


_STRIDES = (1, 2, 1, 2)


class ConvNet(nn.Module):
    """A small ReLU network: 3x3 convolutions with 32-32-64-64 channels and one linear layer.

    The second and the fourth convolution have stride 2.
    Input ``[B, channels, image_size, image_size]``, output ``[B, classes]``.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        image_size: int = 32,
        classes: int = 10,
        activation: Activation = nn.ReLU,
        widths: tuple[int, ...] = (32, 32, 64, 64),
    ) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("image_size", image_size), ("classes", classes)):
            check.check_count(name, size)
        widths = check.check_integers("widths", widths, least=1)
        if len(widths) != len(_STRIDES):
            raise ValueError(f"widths must hold {len(_STRIDES)} sizes, found {widths}")
        body: list[nn.Module] = []
        inner, side = channels, image_size
        for width, stride in zip(widths, _STRIDES, strict=True):
            body += [
                nn.Conv2d(inner, width, kernel_size=3, padding=1, stride=stride),
                make_activation(activation),
            ]
            inner, side = width, (side - 1) // stride + 1
        self.body = nn.Sequential(*body)
        self.fc = nn.Linear(inner * side * side, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, channels, image_size, image_size]``."""
        return self.fc(self.body(images).flatten(1))
