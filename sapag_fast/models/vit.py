"""Vision transformers for small pictures."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.models.activations import Activation, make_activation

__all__ = ["ViT"]

Pool = Literal["class", "mean"]

_SPREAD = 0.02
"""Standard deviation of class token and positions."""


class _Block(nn.Module):
    """Self-attention and a network for each token, each behind a normalisation and beside a residual sum.

    Attention is linear layers and plain matrix products: fused attention has no second derivative.
    """

    def __init__(self, width: int, heads: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.norm2, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
        )
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, H]``."""
        split = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        x = x + self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class ViT(nn.Module):
    """Patches, a class token, positions, encoder layers, and a linear classifier.

    Source: Dosovitskiy et al., "An image is worth 16x16 words" (2021): normalisation before each part and
    after the last. Input ``[B, channels, image_size, image_size]``, output ``[B, classes]``.

    Parameters
    ----------
    channels, image_size, classes : int
        Of the images.
    activation : str, module class, module or function
        Of each token's network, as `make_activation` takes it.
    patch : int
        The side of a patch, a divisor of `image_size`.
    width, layers, heads : int
        H, the number of encoder layers, of heads in each.
    hidden : int, optional
        Units in each token's network; None: 4 H.
    pool : {"class", "mean"}
        What is classified: the class token, or the mean of the patches, without a class token then.

    Raises
    ------
    ValueError
        When `patch` does not divide `image_size`, or `heads` `width`.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        image_size: int = 32,
        classes: int = 10,
        activation: Activation = nn.GELU,
        patch: int = 4,
        width: int = 96,
        layers: int = 6,
        heads: int = 4,
        hidden: int | None = None,
        pool: Pool = "class",
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "image_size": image_size, "classes": classes, "patch": patch}
        for name, size in {**sizes, "width": width, "layers": layers, "heads": heads}.items():
            check.check_count(name, size)
        hidden = 4 * width if hidden is None else check.check_count("hidden", hidden)
        check.check_choice("pool", pool, ("class", "mean"))
        if image_size % patch:
            raise ValueError(f"patch: expected a divisor of the image's side {image_size}, found {patch}")
        if width % heads:
            raise ValueError(f"heads: expected a divisor of the width {width}, found {heads}")
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, width)) if pool == "class" else None
        tokens = (image_size // patch) ** 2 + (pool == "class")
        self.positions = nn.Parameter(torch.empty(1, tokens, width))
        self.blocks = nn.Sequential(*(_Block(width, heads, hidden, activation) for _ in range(layers)))
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the class token and the positions anew."""
        for parameter in (self.class_token, self.positions):
            if parameter is not None:
                nn.init.normal_(parameter, std=_SPREAD)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, classes]`` of images ``[B, channels, image_size, image_size]``."""
        x = self.embed(images).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.positions))
        return self.fc(x.mean(1) if self.class_token is None else x[:, 0])
