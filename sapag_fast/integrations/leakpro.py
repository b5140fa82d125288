"""LeakPro: the costs of its older attacks, and the matching loss of its modular ones.

Older attacks call ``cosine_similarity_weights(dummy, client's, top10norms)``: against the names of its
parameters. Replace it where the attack's module has imported it:

    from leakpro.attacks.gia_attacks import invertinggradients
    from sapag_fast.integrations import leakpro
    invertinggradients.cosine_similarity_weights = leakpro.GradientCosts("sapag")

Modular attacks are built by ``presets`` with the class of this name there, before ``config.build(...)``:

    from leakpro.attacks.gia_attacks.modular import presets
    from leakpro.attacks.gia_attacks.modular.components.optimization_building_blocks import loss_components

    class FusedLoss(leakpro.FusedMatching, loss_components.GradientMatchingLoss):
        kind = "sapag"  # left out: the loss_type that the attack's configuration names

    presets.GradientMatchingLoss = FusedLoss
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sapag_fast.distances.kind import Kind, find_kind
from sapag_fast.integrations.both import both_lists
from sapag_fast.integrations.inverting_gradients import chosen_positions
from sapag_fast.integrations.kept import kept, tensor_norms
from sapag_fast.integrations.selected import SelectedDistance

__all__ = ["FusedMatching", "GradientCosts", "l2_distance", "l2_distance_weights"]

_FUSED = ("l2", "cosine")

if TYPE_CHECKING:

    class _MatchingLoss:
        """What is used of LeakPro's ``GradientMatchingLoss``."""

        loss_type: str

        def _compute_matching_loss(
            self, reconstructed_values: Sequence[Tensor], target_gradients: Sequence[Tensor]
        ) -> Tensor: ...

else:
    _MatchingLoss = object


class GradientCosts:
    """``costs(dummy gradient, client's gradient, top10norms) -> Tensor``, shape (1,), float32 as there.

    The order is that of LeakPro's calls. With `top10norms` only the ten gradients of the largest norm in the
    second list count; layers follow from all of them. Pairs of None are left out.

    Parameters
    ----------
    kind : str or Kind
        Of the distance; ``cosine`` is what ``cosine_similarity_weights`` computes.
    **options
        Of `sapag_fast.GradientDistance`.
    """

    def __init__(self, kind: str | Kind = "cosine", **options: Any) -> None:
        self.distance = SelectedDistance(kind, **options)

    def __call__(
        self, dummy_gradient: Sequence[Tensor], client_gradient: Sequence[Tensor], top10norms: bool = False
    ) -> Tensor:
        """The distance of the gradients that count, shape ``(1,)``."""
        mine, given, chosen = _compared(dummy_gradient, client_gradient, top10norms)
        return self.distance(mine, given, chosen).float().reshape(1)


def l2_distance_weights(
    dummy_gradient: Sequence[Tensor], client_gradient: Sequence[Tensor], top10norms: bool = False
) -> Tensor:
    """The mean over gradients of ‖g' - g‖ (not squared), shape ()."""
    mine, given, chosen = _compared(dummy_gradient, client_gradient, top10norms)
    weights = (1 / max(len(chosen), 1),) * len(chosen)
    return tensor_norms(weights)([mine[i] for i in chosen], [given[i] for i in chosen])


def l2_distance(dummy_gradient: Sequence[Tensor], client_gradient: Sequence[Tensor]) -> Tensor:
    """The sum over gradients of ‖g' - g‖ (not squared), shape ()."""
    mine, given, chosen = _compared(dummy_gradient, client_gradient, False)
    return tensor_norms((1.0,) * len(chosen))([mine[i] for i in chosen], [given[i] for i in chosen])


def _compared(
    dummy: Sequence[Tensor], client: Sequence[Tensor], top10norms: bool
) -> tuple[list[Tensor | None], list[Tensor | None], list[int]]:
    """Both lists, and the positions that count."""
    mine, given = both_lists("dummy_gradient", dummy, "client_gradient", client)
    return mine, given, chosen_positions("top10" if top10norms else "all", mine, given)


class FusedMatching(_MatchingLoss):
    """Put in front of ``GradientMatchingLoss``: its loss types run on the fused kernels.

    They are ``l2`` and ``cosine``, or any `kind` in their place. The Fisher loss weighs single elements; it
    stays LeakPro's, as whatever else its class takes.

    Raises
    ------
    ValueError
        Where a class is made with a `kind` that does not exist; it names those that do.
    """

    kind: str | Kind | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.kind is not None:
            find_kind(cls.kind)

    @property
    def name(self) -> str:
        """What LeakPro's logs call it."""
        if self.kind is None:
            return f"GradientMatchingLoss({self.loss_type}{', fused' * (self.loss_type in _FUSED)})"
        return f"GradientMatchingLoss({find_kind(self.kind).name}, fused)"

    def _compute_matching_loss(
        self, reconstructed_values: Sequence[Tensor], target_gradients: Sequence[Tensor]
    ) -> Tensor:
        if self.kind is not None:
            return kept(self.kind)(reconstructed_values, target_gradients)
        if self.loss_type == "l2":
            return kept("l2")(reconstructed_values, target_gradients)
        if self.loss_type == "cosine":
            return kept("cosine")(reconstructed_values, target_gradients).reshape(1)
        return super()._compute_matching_loss(reconstructed_values, target_gradients)
