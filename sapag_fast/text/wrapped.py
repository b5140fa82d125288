"""A matching on embeddings, seen in the coordinates of a search for sentences."""

from __future__ import annotations

from torch import Tensor

from sapag_fast.matching.base import Matching, StageHook

__all__ = ["WrappedMatching"]


class WrappedMatching:
    """What all of them pass on to the inner matching.

    Parameters
    ----------
    inner : Matching
        Of the embeddings ``[R, 1, T, H]``.
    victims : Tensor
        ``[A]``: the search's victim a is the inner matching's ``victims[a]``.
    """

    def __init__(self, inner: Matching, victims: Tensor) -> None:
        self.inner, self.victims = inner, victims
        self.mode = inner.mode

    @property
    def stages(self) -> StageHook | None:
        """Who is told when a stage of the inner evaluation begins, as of `Matching`."""
        return self.inner.stages

    @stages.setter
    def stages(self, stages: StageHook | None) -> None:
        self.inner.stages = stages

    def retarget(self, victims: Tensor, widths: Tensor | None = None) -> None:
        """From now on row r searches the search's victim ``victims[r]``, ``[R]``, int64."""
        self.inner.retarget(self.victims[victims], widths)
