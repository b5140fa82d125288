"""What the benchmarks on recoveries share: the gradients of victims, and what counts as success."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.reports.metrics import SUCCESS_MSE, assign

__all__ = ["SUCCESS", "shared_gradients", "succeeded"]

SUCCESS = SUCCESS_MSE
"""A mean squared error below this, on pixels in [0, 1], is a recovered image."""


def shared_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """``[V, *parameter shape]`` for images ``[V, B, *input_shape]`` and labels ``[V, B]``: one gradient for
    each batch of B, at the same weights and running statistics.
    """
    parameters = tuple(p for p in model.parameters() if p.requires_grad)
    state = {name: tensor.clone() for name, tensor in model.named_buffers()}
    rows = []
    for x, y in zip(images, labels, strict=True):
        rows.append(torch.autograd.grad(F.cross_entropy(model(x), y), parameters))
        for name, tensor in model.named_buffers():
            tensor.copy_(state[name])
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


def succeeded(found: Tensor, truth: Tensor) -> bool:
    """Whether every image of ``[B, *input_shape]`` is there, in any order."""
    if not torch.isfinite(found).all():
        return False
    errors = (found.clamp(0, 1) - truth[assign(found, truth)]).square().flatten(1).mean(1)
    return bool((errors < SUCCESS).all())
