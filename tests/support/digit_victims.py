"""Victims of the tests: real digits, a small LeNet, and the gradients that they leave in it."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.models import LeNet, initialise

SHAPE = (1, 16, 16)


def small_digits(count: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """``[count, 1, 16, 16]`` in [0, 1] and their labels."""
    data = load_digits()
    images = torch.as_tensor(data.images[first : first + count] / 16.0, dtype=torch.float32)[:, None]
    images = F.interpolate(images, size=16, mode="bilinear", align_corners=False)
    return images, torch.as_tensor(data.target[first : first + count])


def small_lenet(name: str = "uniform", seed: int = 0, **options: int) -> LeNet:
    """A LeNet for them, initialised as named."""
    return initialise(LeNet(image_size=16, **options), name, seed=seed)


def gradient_of(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """One gradient of the whole batch, toward the parameters that are trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(F.cross_entropy(model(images), labels), trained)


def stacked_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """One gradient an image, stacked."""
    rows = [gradient_of(model, x[None], y[None]) for x, y in zip(images, labels, strict=True)]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]
