"""Small networks on sentences, and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.models import make_model

VOCABULARY = 60


def make_encoder(seed: int = 0, **options: object) -> nn.Module:
    settings = {"vocabulary": VOCABULARY, "max_length": 16, "width": 32, "layers": 2, "hidden": 48}
    return make_model("encoder", seed=seed, **(settings | options))


def make_sentences(count: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random tokens ``[count, length]`` and labels."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (count, length), generator=g)
    return tokens, torch.randint(0, 2, (count,), generator=g)


def gradient_of(model: nn.Module, tokens: Tensor, label: Tensor) -> list[Tensor | None]:
    """Of one sentence ``[T]``."""
    output = model(tokens[None])
    logits = output if isinstance(output, Tensor) else output.logits
    trained = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad(F.cross_entropy(logits, label[None]), trained, allow_unused=True))


def gradients_of(
    model: nn.Module, tokens: Tensor, labels: Tensor, change: Callable[[Tensor], Tensor] = lambda t: t
) -> list[Tensor | None]:
    """Stacked, one row a sentence."""
    rows = [gradient_of(model, x, y) for x, y in zip(tokens, labels, strict=True)]
    return [None if part[0] is None else change(torch.stack(part)) for part in zip(*rows, strict=True)]
