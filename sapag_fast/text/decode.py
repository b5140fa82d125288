"""From a search's continuous result to whole tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.runtime.extras import needs
from sapag_fast.text.bag import Bag

__all__ = ["assign_tokens", "nearest_tokens"]


def assign_tokens(shares: Tensor, bag: Bag) -> Tensor:
    """Find the likeliest sentence that has every token of the bag.

    Parameters
    ----------
    shares : Tensor
        ``[T, K]``, the tokens' probabilities at each position.
    bag : Bag
        K tokens, T places.

    Returns
    -------
    Tensor
        ``[T]``, int64: a maximum of Σ log p over all assignments in which each token occurs at least once.
    """
    with needs("text", "recovered sentences"):
        from scipy.optimize import linear_sum_assignment

    size = len(bag.tokens)
    score = shares[:, :size].detach().double().cpu().clamp(min=1e-30).log()
    # Each token has a place that must be filled, and as many more as there are repeats.
    must = 2 * bag.length * (1 + score.abs().max())
    columns = torch.cat((score + must, *[score] * bag.repeats), 1)
    positions, chosen = linear_sum_assignment(columns.numpy(), maximize=True)
    indices = torch.empty(bag.length, dtype=torch.long)
    indices[torch.from_numpy(positions)] = torch.from_numpy(chosen) % size
    return bag.tokens.cpu()[indices].to(bag.tokens.device)


def nearest_tokens(embeddings: Tensor, table: Tensor, positions: Tensor | None, count: int) -> Tensor:
    """Find the `count` tokens whose embeddings lie closest to each continuous one, closest first.

    The layer normalisation after a sum of word and position embedding sees neither its mean nor its size, so
    that the gradient determines it up to these: angles of the centred sums are compared.

    Parameters
    ----------
    embeddings : Tensor
        ``[N, T, H]``.
    table : Tensor
        ``[vocabulary, H]``.
    positions : Tensor or None
        ``[T, H]``, what the model adds at each position.
    count : int
        At most the vocabulary.

    Returns
    -------
    Tensor
        ``[N, T, count]``, int64.
    """
    nearest = []
    for t in range(embeddings.shape[1]):
        shift = 0.0 if positions is None else positions[t]
        cosines = _direction(embeddings[:, t] + shift) @ _direction(table + shift).mT
        nearest.append(cosines.topk(count).indices)
    return torch.stack(nearest, 1)


def _direction(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors - vectors.mean(-1, keepdim=True), dim=-1)
