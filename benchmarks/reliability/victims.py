"""Gradients of the small network, for audits and recoveries."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.reliability.small_net import INPUT_SHAPE, REFERENCE, make
from sapag_fast.files.gradient_file import GradientMetadata, write_gradient
from sapag_fast.files.tensors import write_tensors

MODEL = ("--model", REFERENCE, "--device", "cpu")


def write_victims(folder: Path, count: int, seed: int = 0) -> Path:
    """Weights ``w.safetensors`` and ``gradients/``, a file a victim: v0, v1, ...; returns that folder."""
    gradients = folder / "gradients"
    gradients.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make()
        write_tensors(folder / "w.safetensors", model.state_dict())
        for victim in range(count):
            image, label = torch.rand(1, *INPUT_SHAPE), torch.tensor([victim % 4])
            loss = F.cross_entropy(model(image), label)
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            named = dict(zip((name for name, _ in model.named_parameters()), slopes, strict=True))
            write_gradient(
                gradients / f"v{victim}.safetensors", named, GradientMetadata(INPUT_SHAPE, 1, (victim % 4,))
            )
    return gradients
