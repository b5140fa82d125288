"""SHA-256 of what decides the bits of a run: words, tensors, a model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["fingerprint", "model_fingerprint", "structure"]


def fingerprint(words: Iterable[object], tensors: Iterable[Tensor | None]) -> str:
    """SHA-256 over words and tensors: what a checkpoint belongs to."""
    digest = hashlib.sha256()
    for word in words:
        digest.update(f"{word!r}\n".encode())
    for tensor in tensors:
        if tensor is None:
            digest.update(b"None\n")
            continue
        digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 over the model's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def structure(model: nn.Module) -> str:
    """What the fingerprint leaves out: modules, modes and which parameters are trained."""
    modes = [name for name, module in model.named_modules() if module.training]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    words = f"{model!r}\n{modes}\n{trained}"
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", words).encode()).hexdigest()
