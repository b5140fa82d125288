"""The same numbers, lying in memory in other ways."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def spread(rng: np.random.Generator, tensor: Tensor, batched: bool) -> tuple[Tensor, str]:
    """A tensor of the same shape, and in words how it lies. ``expanded`` repeats one slice of the values."""
    how = rng.random()
    if how < 0.6 or (how < 0.9 and tensor.numel() == 0):
        return tensor, "dense"
    if how < 0.7:
        memory = torch.full((tensor.numel() + 3,), torch.nan, dtype=tensor.dtype)
        view = memory[1 : tensor.numel() + 1].view(tensor.shape)
        return view.copy_(tensor), "offset"
    if how < 0.78 and tensor.dim():
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
        return wide[..., ::2].copy_(tensor), "strided"
    if how < 0.9 and tensor.dim() > 1:
        order = rng.permutation(tensor.dim())
        back = [int(i) for i in np.argsort(order)]
        return tensor.permute(*(int(i) for i in order)).contiguous().permute(back), "permuted"
    wide = [i for i, size in enumerate(tensor.shape) if size > 1 and not (batched and i == 0)]
    if how >= 0.9 and wide:
        dim = int(rng.choice(wide))
        return tensor.narrow(dim, 0, 1).expand(tensor.shape), "expanded"
    return tensor, "dense"
