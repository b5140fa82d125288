"""GradAttack (Huang et al., NeurIPS 2021): metrics for its `GradientReconstructor`.

from sapag_fast.integrations.gradattack import GradientMetric
attack = GradientReconstructor(pipeline, ..., attack_loss_metric=GradientMetric("sapag"))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sapag_fast.distances.kind import Kind
from sapag_fast.integrations.both import both_lists
from sapag_fast.integrations.inverting_gradients import check_indices, chosen_positions
from sapag_fast.integrations.selected import SelectedDistance

__all__ = ["GradientMetric"]


class GradientMetric:
    """``metric(trial_gradients, input_gradients) -> Tensor``, shape ().

    Parameters
    ----------
    kind : str or Kind
        Of the distance; the tool's own are ``cosine`` and ``l2``.
    indices : str or sequence of int
        Which gradients count: positions, or one of the tool's names (``all``, ``top10``, ``first5``, ...).
        Layers follow from all gradients; pairs of None are left out.
    **options
        Of `sapag_fast.GradientDistance`; ``layers`` numbers all gradients, chosen or not.
    """

    def __init__(
        self, kind: str | Kind = "sapag", indices: str | Sequence[int] = "all", **options: Any
    ) -> None:
        self.distance = SelectedDistance(kind, **options)
        check_indices(indices)
        self.indices = indices

    def __call__(self, trial_gradients: Sequence[Tensor], input_gradients: Sequence[Tensor]) -> Tensor:
        """The distance of the gradients that count."""
        mine, given = both_lists("trial_gradients", trial_gradients, "input_gradients", input_gradients)
        return self.distance(mine, given, chosen_positions(self.indices, mine, given))
