"""Clients that train with torch's own optimiser, and what they share."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def in_turn(inputs: int, size: int, epochs: int = 1) -> list[list[int]]:
    """The mini-batches of each epoch, in order."""
    return [list(range(inputs))[at : at + size] for at in range(0, inputs, size)] * epochs


def shared_by(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batches: Iterable[Sequence[int]],
    rate: float | Sequence[float] = 0.05,
    **settings: float,
) -> list[Tensor]:
    """(before - after) / the first rate of a client that takes a step of ``torch.optim.SGD`` a mini-batch."""
    client = copy.deepcopy(model)
    batches = list(batches)
    rates = list(rate) if isinstance(rate, Sequence) else [rate] * len(batches)
    trained = [p for p in client.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=rates[0], **settings)
    for taken, now in zip(batches, rates, strict=True):
        optimizer.param_groups[0]["lr"] = now
        optimizer.zero_grad()
        F.cross_entropy(client(images[taken]), labels[taken]).backward()
        optimizer.step()
    before = [p for p in model.parameters() if p.requires_grad]
    return [(b - a).detach() / rates[0] for b, a in zip(before, trained, strict=True)]
