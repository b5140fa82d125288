"""Sentences one change away from another: what the discrete search tries."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

from sapag_fast.runtime.modes import real_tensors

__all__ = ["orders", "replacements"]


@lru_cache(maxsize=32)
@real_tensors()
def orders(length: int) -> tuple[Tensor, Tensor]:
    """List the rearrangements of T places that a step may make, each once, without the identity.

    Returns
    -------
    swaps : Tensor
        ``[N, T]``, int64: of two places.
    moves : Tensor
        ``[M, T]``, int64: reversals of a segment, and exchanges of two adjacent segments, which are the moves
        of any segment to anywhere.
    """
    places = list(range(length))
    swaps: dict[tuple[int, ...], None] = {}
    others: dict[tuple[int, ...], None] = {}
    for i, j in combinations(range(length), 2):
        swapped = places.copy()
        swapped[i], swapped[j] = places[j], places[i]
        swaps[tuple(swapped)] = None
        others[(*places[:i], *places[i : j + 1][::-1], *places[j + 1 :])] = None
        for k in range(j + 1, length + 1):
            others[(*places[:i], *places[j:k], *places[i:j], *places[k:])] = None
    far = [order for order in others if order not in swaps]
    swapped, moved = (torch.tensor(rows, dtype=torch.long).reshape(-1, length) for rows in (list(swaps), far))
    return swapped, moved


def replacements(sentence: Tensor, choices: Tensor, required: Tensor | None) -> Tensor:
    """List the sentences that differ from `sentence` by one token.

    Parameters
    ----------
    sentence : Tensor
        ``[T]``, int64.
    choices : Tensor
        ``[T, C]``, what may stand at each position.
    required : Tensor or None
        ``[K]``, tokens that must all remain.

    Returns
    -------
    Tensor
        ``[N, T]``.
    """
    length, count = choices.shape
    changed = sentence.repeat(length * count, 1)
    at = torch.arange(length, device=sentence.device).repeat_interleave(count)
    changed[torch.arange(len(changed), device=sentence.device), at] = choices.flatten()
    keep = (changed != sentence).any(1)
    if required is not None:
        keep &= (changed[:, :, None] == required).any(1).all(1)
    return changed[keep]
