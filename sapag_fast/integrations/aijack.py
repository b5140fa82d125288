"""AIJack: a `distancefunc` for its gradient inversion attacks.

from sapag_fast.integrations.aijack import DistanceFunction
attacker = GradientInversion_Attack(model, input_shape, ..., distancefunc=DistanceFunction("sapag"))
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor

from sapag_fast.distances.kind import Kind
from sapag_fast.integrations.both import both_lists
from sapag_fast.integrations.selected import SelectedDistance, present

__all__ = ["DistanceFunction"]


class DistanceFunction:
    """``distancefunc(fake_gradients, received_gradients, gradient_ignore_pos) -> Tensor``, shape ().

    Pairs at an ignored position, and pairs with None on either side, are left out; layers follow from all of
    the gradients.

    Parameters
    ----------
    kind : str or Kind
        Of the distance; the tool's own are ``l2`` and ``cosine`` (there ``cossim``).
    **options
        Of `sapag_fast.GradientDistance`.
    """

    def __init__(self, kind: str | Kind = "sapag", **options: Any) -> None:
        self.distance = SelectedDistance(kind, **options)

    def __call__(
        self,
        fake_gradients: Iterable[Tensor | None],
        received_gradients: Iterable[Tensor | None],
        gradient_ignore_pos: Collection[int] = (),
    ) -> Tensor:
        """The distance of the pairs that count; ValueError where none does."""
        fakes, given = both_lists(
            "fake_gradients", fake_gradients, "received_gradients", received_gradients, in_pairs=False
        )
        chosen = [i for i in present(fakes, given) if i not in gradient_ignore_pos]
        if not chosen:
            raise ValueError("fake_gradients: expected at least one pair of gradients to compare, found none")
        return self.distance(fakes, given, chosen)
