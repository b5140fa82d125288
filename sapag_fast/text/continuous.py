"""Continuous embeddings, in units of their table's deviation."""

from __future__ import annotations

from torch import Tensor

from sapag_fast.matching.base import Matching, StageHook

__all__ = ["ScaledEmbeddings"]


class ScaledEmbeddings:
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
        self.inner, self.victims = inner, victims
        self.mode = inner.mode
        self.scale = embedding.detach().std()

    @property
    def stages(self) -> StageHook | None:
        """Who is told when a stage of the inner evaluation begins, as of `Matching`."""
        return self.inner.stages

    @stages.setter
    def stages(self, stages: StageHook | None) -> None:
        self.inner.stages = stages

    def retarget(self, victims: Tensor) -> None:
        """From now on row r searches the search's victim ``victims[r]``, ``[R]``, int64."""
        self.inner.retarget(self.victims[victims])

    def embeddings(self, inputs: Tensor) -> Tensor:
        """The word embeddings for v, both ``[R, 1, T, H]``."""
        return self.scale * inputs

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate once, as `Matching` does, at v, the `inputs`."""
        value, slope, _ = self.inner.value_and_gradient(self.embeddings(inputs), labels, sharpness)
        return value, self.scale * slope, None
