"""Continuous embeddings, in units of their table's deviation."""

from __future__ import annotations

from torch import Tensor

from sapag_fast.matching.base import Matching
from sapag_fast.text.wrapped import WrappedMatching

__all__ = ["ScaledEmbeddings"]


class ScaledEmbeddings(WrappedMatching):
    """Matching in v ``[R, 1, T, H]``: the word embeddings are std(E)·v.

    Parameters
    ----------
    inner : Matching
        In embeddings.
    embedding : Tensor
        E, ``[vocabulary, H]``.
    victims : Tensor
        ``[A]``: the search's victim a is the inner matching's ``victims[a]``.
    """

    def __init__(self, inner: Matching, embedding: Tensor, victims: Tensor) -> None:
        super().__init__(inner, victims)
        self.scale = embedding.detach().std()

    def embeddings(self, inputs: Tensor) -> Tensor:
        """The word embeddings for v, both ``[R, 1, T, H]``."""
        return self.scale * inputs

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate once, as `Matching` does, at v, the `inputs`."""
        value, slope, _ = self.inner.value_and_gradient(self.embeddings(inputs), labels, sharpness)
        return value, self.scale * slope, None
