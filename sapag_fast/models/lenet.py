"""The LeNets that gradient-leakage attacks are measured on."""

from __future__ import annotations

from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.models.activations import Activation, make_activation

__all__ = ["LeNet"]

_STRIDES = (2, 2, 1, 1)


class LeNet(nn.Module):
    """The LeNet that DLG attacks: 5x5 convolutions with 12 channels and one linear layer.

    Source: Zhu, Liu, Han, "Deep Leakage from Gradients" (2019), section 4; strides 2, 2, 1 and a smooth
    activation. With ``convolutions=4`` one more of stride 1. Input ``[B, channels, image_size, image_size]``,
    output ``[B, classes]``.

    Raises
    ------
    ValueError
        For another number of convolutions.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        image_size: int = 28,
        classes: int = 10,
        activation: Activation = nn.Sigmoid,
        width: int = 12,
        convolutions: int = 3,
    ) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("image_size", image_size), ("classes", classes)):
            check.check_count(name, size)
        check.check_count("width", width)
        check.check_count("convolutions", convolutions, least=3, most=4)
        body: list[nn.Module] = []
        inner, side = channels, image_size
        for stride in _STRIDES[:convolutions]:
            body += [
                nn.Conv2d(inner, width, kernel_size=5, padding=2, stride=stride),
                make_activation(activation),
            ]
            inner, side = width, (side - 1) // stride + 1
        self.body = nn.Sequential(*body)
        self.fc = nn.Linear(width * side * side, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, channels, image_size, image_size]``."""
        return self.fc(self.body(images).flatten(1))
