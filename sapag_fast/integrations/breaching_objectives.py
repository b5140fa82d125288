"""breaching's objectives on the fused kernels, without breaching: `breaching.install` joins the two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.integrations.breaching_base import Objective, check_known, remembered
from sapag_fast.integrations.candidate import CandidateDistance
from sapag_fast.integrations.inverting_gradients import layer_weights
from sapag_fast.integrations.kept import fixed_norm_cosine

__all__ = [
    "L1",
    "Angular",
    "Cosine",
    "Euclidean",
    "FastCosine",
    "MaskedCosine",
    "OwnKind",
    "Pearlmutter",
    "PearlmutterCosine",
    "Tag",
]

if TYPE_CHECKING:

    class _PearlmutterLoss:
        """What is used of breaching's ``PearlmutterEuclidean``."""

        scale: float

        def __init__(self, **options: Any) -> None: ...

else:
    _PearlmutterLoss = object

_OPTIONS = ("bandwidth", "layer_weights", "merge_bias", "layers", "variance", "l1_weight", "backend")
_SCHEMES = ("linear", "exp", "equal", "none")  # breaching takes whatever it does not know for equal weights
_MASKED_BELOW = 1e-6  # breaching takes its own default, whatever the configuration says
_ANGLE_MARGIN = 1e-7  # likewise


class OwnKind(Objective):
    """One of our own kinds, named by `type`.

    Options of `GradientDistance` come with the configuration: ``bandwidth``, ``layer_weights``,
    ``merge_bias``, ``layers``, ``variance``, ``l1_weight``, ``backend``.

    Raises
    ------
    ValueError, TypeError
        For options that the kind does not take, or that have other values than these, naming them.
    """

    takes = _OPTIONS

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        try:
            self.make(0)
        except (ValueError, TypeError) as error:
            raise type(error)(f"objective.{error}") from None

    def make(self, count: int) -> GradientDistance:
        """The distance of lists of `count` gradients."""
        options = {name: _plain(self.options[name]) for name in _OPTIONS if name in self.options}
        return GradientDistance(self.options["type"], **options)


def _plain(option: Any) -> Any:
    """Lists of a configuration as lists."""
    return list(option) if hasattr(option, "__iter__") and not isinstance(option, str) else option


class Euclidean(Objective):
    """½ Σ d². The scale goes into the kernel, where it costs nothing."""

    def make(self, count: int) -> GradientDistance:
        """The distance of lists of `count` gradients."""
        return GradientDistance("l2", layers=[0] * count, layer_weights=[0.5 * self.scale])

    def finish(self, distance: Tensor) -> Tensor:
        """The objective from the distance."""
        return distance


class L1(Euclidean):
    """½ Σ|d|."""

    def make(self, count: int) -> GradientDistance:
        """The distance of lists of `count` gradients."""
        return GradientDistance("l1", layers=[0] * count, layer_weights=[0.5 * self.scale])


class Tag(Objective):
    """½ Σ_i (Σ d² + c w_i Σ|d|), each tensor with a weight of its own."""

    def __init__(self, tag_scale: float = 0.1, scale_scheme: str = "linear", **options: Any) -> None:
        super().__init__(**options)
        self.tag_scale = float(tag_scale)
        self.scale_scheme = check.check_choice("objective.scale_scheme", scale_scheme, _SCHEMES)

    def make(self, count: int) -> GradientDistance:
        """The distance of lists of `count` gradients."""
        weights = layer_weights(self.scale_scheme.replace("none", "equal"), count)
        return GradientDistance("tag", layers=range(count), layer_weights=weights, l1_weight=self.tag_scale)

    def finish(self, distance: Tensor) -> Tensor:
        """The objective from the distance."""
        return distance * (0.5 * self.scale)


class Cosine(Objective):
    """1 - cos of the whole gradients."""

    def make(self, count: int) -> GradientDistance:
        """The distance of lists of `count` gradients."""
        return GradientDistance("cosine")


class FastCosine(Objective):
    """1 - cos, the norm of the dummy gradient held constant in the derivative."""

    def make(self, count: int) -> GradientDistance:
        """The distance of lists of `count` gradients."""
        return fixed_norm_cosine().copy()


class Angular(Cosine):
    """The angle between the whole gradients over π.

    It is 2 arcsin √(D/2): arccos of a cosine near 1 has no digits left.
    """

    def finish(self, distance: Tensor) -> Tensor:
        """The objective from the distance."""
        gap = distance.clamp(_ANGLE_MARGIN, 2 - _ANGLE_MARGIN)
        return (gap / 2).sqrt().asin() * (2 * self.scale / math.pi)


class _Masked:
    """Where one target is not (nearly) zero.

    For each of its gradients a mask, or None where nothing is left out, and what the mask leaves of it.
    """

    def __init__(self, target: Sequence[Tensor]) -> None:
        self.target, self.versions = list(target), [t._version for t in target]
        full = [t.abs() > _MASKED_BELOW for t in target]
        self.masks = [None if bool(m.all()) else m.to(t.dtype) for m, t in zip(full, target, strict=True)]
        self.kept = self.of(target)

    def serves(self, target: Sequence[Tensor]) -> bool:
        """Whether it was made for this target, and nobody has written to it since."""
        same = [t is mine for t, mine in zip(target, self.target, strict=True)]
        return all(same) and self.versions == [t._version for t in target]

    def of(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        return [g if m is None else g * m for g, m in zip(gradients, self.masks, strict=True)]


class MaskedCosine(Cosine):
    """1 - cos over the elements whose target is not (nearly) zero."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.masked: dict[int, _Masked] = {}

    def gradient_based_loss(self, gradient_rec: Sequence[Tensor], gradient_data: Sequence[Tensor]) -> Tensor:
        """The distance of what the mask leaves."""
        masked = self._masked(gradient_data)
        return super().gradient_based_loss(masked.of(gradient_rec), masked.kept)

    def candidate_distance(
        self, model: nn.Module, target: Sequence[Tensor], candidate: Tensor, labels: Tensor
    ) -> CandidateDistance | None:
        """As without a mask, where it leaves everything; else None."""
        if any(mask is not None for mask in self._masked(target).masks):
            return None
        return super().candidate_distance(model, target, candidate, labels)

    def _masked(self, target: Sequence[Tensor]) -> _Masked:
        known = remembered(self.masked, target, lambda: _Masked(target))
        if not known.serves(target):
            known = self.masked[id(target[0])] = _Masked(target)
        return known


class Pearlmutter(_PearlmutterLoss):
    """Value and first-order gradient in one sweep, for breaching's finite differences.

    Goes in front of its ``PearlmutterEuclidean``, whose options it takes.
    """

    kind = "l2"
    weights: tuple[float, ...] | None = (0.5,)

    def __init__(self, **options: Any) -> None:
        check_known(options, ("eps", "level_gradients", "fudge_factor", "implementation"))
        super().__init__(**options)
        self.distances: dict[int, GradientDistance] = {}

    def _compute_objective_and_first_order(
        self, candidate: Tensor, gradients: Sequence[Tensor], gradient_data: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        distance = remembered(self.distances, gradient_data, lambda: self.make(len(gradient_data)))
        value, first_order = distance.distance_and_gradient(gradients, gradient_data)
        return value * self.scale, first_order

    def make(self, count: int) -> GradientDistance:
        """The distance of lists of `count` gradients."""
        return GradientDistance(self.kind, layers=[0] * count, layer_weights=self.weights)


class PearlmutterCosine(Pearlmutter):
    """1 - cos of the whole gradients, and its first-order gradient."""

    kind, weights = "cosine", None
