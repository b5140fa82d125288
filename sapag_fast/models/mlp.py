"""Linear layers alone."""

from __future__ import annotations

from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.models.activations import Activation, make_activation

__all__ = ["MLP"]


class MLP(nn.Module):
    """Linear layers of the given widths with an activation after each, and one more to the classes.

    Input ``[B, channels, image_size, image_size]``, output ``[B, classes]``.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        image_size: int = 28,
        classes: int = 10,
        activation: Activation = nn.Sigmoid,
        widths: tuple[int, ...] = (256, 128),
    ) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("image_size", image_size), ("classes", classes)):
            check.check_count(name, size)
        widths = check.check_integers("widths", widths, least=1)
        body: list[nn.Module] = []
        inner = channels * image_size * image_size
        for width in widths:
            body += [nn.Linear(inner, width), make_activation(activation)]
            inner = width
        self.body = nn.Sequential(*body)
        self.fc = nn.Linear(inner, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, channels, image_size, image_size]``."""
        return self.fc(self.body(images.flatten(1)))
