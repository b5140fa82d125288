"""Soft assignment: which token of the bag stands where, as probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sapag_fast.matching.base import Matching
from sapag_fast.text.bag import Bag
from sapag_fast.text.wrapped import WrappedMatching

__all__ = ["SoftAssignment", "padded_bags"]


def padded_bags(bags: Sequence[Bag]) -> tuple[Tensor, Tensor]:
    """Tokens ``[V, K]`` of all bags, K the size of the largest, and which of them are there (bool)."""
    largest = max(len(bag.tokens) for bag in bags)
    tokens = bags[0].tokens.new_zeros(len(bags), largest)
    present = torch.zeros(tokens.shape, dtype=torch.bool, device=tokens.device)
    for row, bag in enumerate(bags):
        tokens[row, : len(bag.tokens)] = bag.tokens
        present[row, : len(bag.tokens)] = True
    return tokens, present


class SoftAssignment(WrappedMatching):
    """Matching in logits z ``[R, 1, T, K]``: the embedding at position t is softmax(z_t)·E[bag].

    Parameters
    ----------
    inner : Matching
        In embeddings ``[R, 1, T, H]``.
    embedding : Tensor
        ``[vocabulary, H]``.
    tokens, present : Tensor
        ``[A, K]``, each victim's bag, and which of its places are filled.
    victims : Tensor
        ``[A]``: the search's victim a is the inner matching's ``victims[a]``.
    """

    def __init__(
        self, inner: Matching, embedding: Tensor, tokens: Tensor, present: Tensor, victims: Tensor
    ) -> None:
        super().__init__(inner, victims)
        self.choices = embedding.detach()[tokens] * present[..., None]
        self.absent = torch.zeros(present.shape, dtype=embedding.dtype, device=embedding.device)
        self.absent.masked_fill_(~present, float("-inf"))

    def retarget(self, victims: Tensor, widths: Tensor | None = None) -> None:
        """From now on row r searches the search's victim ``victims[r]``, ``[R]``, int64."""
        super().retarget(victims, widths)
        self.table = self.choices[victims][:, None]
        self.mask = self.absent[victims][:, None, None]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of the logits ``[R, 1, T, K]`` over each victim's tokens."""
        return (logits + self.mask).softmax(-1)

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate once, as `Matching` does, at the logits `inputs`."""
        shares = self.probabilities(inputs)
        value, slope, _ = self.inner.value_and_gradient(shares @ self.table, labels, sharpness)
        toward = slope @ self.table.mT
        return value, shares * (toward - (shares * toward).sum(-1, keepdim=True)), None
