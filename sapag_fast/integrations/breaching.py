"""breaching (PyPI, 0.1.2): its objectives on the fused kernels, and ours beside them in its lookup.

    from sapag_fast.integrations import breaching as fused
    fused.install()  # before prepare_attack: objectives with breaching's names and values, on our kernels
    cfg.attack.objective.type = "sapag"  # or any other kind of distance

An objective lives as long as its attacker: the distances keep what depends on a target alone for each query,
and notice when the target is another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import kinds
from sapag_fast.integrations.candidate import CandidateDistance
from sapag_fast.integrations.inverting_gradients import layer_weights
from sapag_fast.integrations.kept import fixed_norm_cosine

__all__ = ["install"]

_OPTIONS = ("bandwidth", "layer_weights", "merge_bias", "layers", "l1_weight", "backend")
_MASKED_BELOW = 1e-6  # breaching takes its own default, whatever the configuration says
_ANGLE_MARGIN = 1e-7  # likewise
_QUERIES = 64


class _Objective:
    """What all objectives share; goes in front of breaching's ``GradientLoss``.

    ``**cfg.objective`` is what breaching makes them with: `type`, `scale`, `task_regularization` and whatever
    else the configuration holds. `distance_only` is `install`'s.
    """

    distance_only = False

    def __init__(self, scale: float = 1.0, task_regularization: float = 0.0, **options: Any) -> None:
        super().__init__()
        self.scale = float(scale)
        self.task_regularization = task_regularization
        self.options = options
        self.distances: dict[int, GradientDistance] = {}
        self.candidates: dict[int, CandidateDistance | None] = {}

    def make(self, count: int) -> GradientDistance:
        """The distance of lists of `count` gradients."""
        raise NotImplementedError

    def finish(self, distance: Tensor) -> Tensor:
        """The objective from the distance. A scale of 1 multiplies nothing: its derivative would cost a pass
        over V."""
        return distance if self.scale == 1 else distance * self.scale

    def distance_of(self, target: Sequence[Tensor]) -> GradientDistance:
        """The distance that remembers this query's target; it notices by itself where that has changed."""
        return _remembered(self.distances, target, lambda: self.make(len(target)))

    def gradient_based_loss(self, gradient_rec: Sequence[Tensor], gradient_data: Sequence[Tensor]) -> Tensor:
        """Where breaching asks for the distance of gradients; shape ()."""
        return self.finish(self.distance_of(gradient_data)(gradient_rec, gradient_data))

    def forward(
        self, model: nn.Module, gradient_data: Sequence[Tensor], candidate: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where breaching asks for objective and task loss. Its own way, with a graph through the dummy
        gradient, stays for all that needs the graph."""
        direct = None
        if not (self.distance_only or self._needs_graph(model, candidate, labels)):
            direct = self.candidate_distance(model, gradient_data, candidate, labels)
        if direct is None:
            return super().forward(model, gradient_data, candidate, labels)
        distance, task_loss = direct(candidate, labels)
        return self.finish(distance), task_loss

    def _needs_graph(self, model: nn.Module, candidate: Tensor, labels: Tensor) -> bool:
        """Local steps, labels that are searched too, a weighted task loss, mixed precision, regularisers that
        read features by hooks, and calls that want no gradient."""
        return bool(
            self.local_hyperparams is not None
            or self.cfg_impl.mixed_precision
            or self.task_regularization
            or labels.requires_grad
            or not (torch.is_grad_enabled() and candidate.requires_grad)
            or any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        )

    def candidate_distance(
        self, model: nn.Module, target: Sequence[Tensor], candidate: Tensor, labels: Tensor
    ) -> CandidateDistance | None:
        """What forms distance and gradient together for this query; None where it fails on the model."""

        def made() -> CandidateDistance | None:
            try:
                distance = self.distance_of(target)
                return CandidateDistance(model, self.loss_fn, distance, target, candidate, labels)
            except Exception:  # breaching's own way then says what is wrong, or works
                return None

        known = _remembered(self.candidates, target, made)
        if known is not None and not known.serves(model, target):
            del self.candidates[id(target[0])]
            known = _remembered(self.candidates, target, made)
        return known

    def __repr__(self) -> str:
        name = self.options.get("type", type(self).__name__)
        return f"{name}, fused, with scale={self.scale} and task reg={self.task_regularization}"


def _remembered(known: dict[int, Any], target: Sequence[Tensor], make: Callable[[], Any]) -> Any:
    """What `known` holds for this query's target; made where it holds nothing."""
    key = id(target[0])
    if key not in known:
        if len(known) >= _QUERIES:
            known.clear()
        known[key] = make()
    return known[key]


class _Kind(_Objective):
    """One of our own kinds, named by `type`; options of `GradientDistance` come with the configuration."""

    def make(self, count: int) -> GradientDistance:
        options = {name: _plain(self.options[name]) for name in _OPTIONS if name in self.options}
        return GradientDistance(self.options["type"], **options)


def _plain(option: Any) -> Any:
    """Lists of a configuration as lists."""
    return list(option) if hasattr(option, "__iter__") and not isinstance(option, str) else option


class _Euclidean(_Objective):
    """½ Σ d². The scale goes into the kernel, where it costs nothing."""

    def make(self, count: int) -> GradientDistance:
        return GradientDistance("l2", layers=[0] * count, layer_weights=[0.5 * self.scale])

    def finish(self, distance: Tensor) -> Tensor:
        return distance


class _L1(_Euclidean):
    """½ Σ|d|."""

    def make(self, count: int) -> GradientDistance:
        return GradientDistance("l1", layers=[0] * count, layer_weights=[0.5 * self.scale])


class _Tag(_Objective):
    """½ Σ_i (Σ d² + c w_i Σ|d|), each tensor with a weight of its own."""

    def __init__(self, tag_scale: float = 0.1, scale_scheme: str = "linear", **options: Any) -> None:
        super().__init__(**options)
        self.tag_scale = float(tag_scale)
        self.scale_scheme = scale_scheme

    def make(self, count: int) -> GradientDistance:
        weights = layer_weights(self.scale_scheme, count)
        return GradientDistance("tag", layers=range(count), layer_weights=weights, l1_weight=self.tag_scale)

    def finish(self, distance: Tensor) -> Tensor:
        return distance * (0.5 * self.scale)


class _Cosine(_Objective):
    """1 - cos of the whole gradients."""

    def make(self, count: int) -> GradientDistance:
        return GradientDistance("cosine")


class _FastCosine(_Objective):
    """1 - cos, the norm of the dummy gradient held constant in the derivative."""

    def make(self, count: int) -> GradientDistance:
        return fixed_norm_cosine().copy()


class _Angular(_Cosine):
    """The angle between the whole gradients over π, from 2 arcsin √(D/2): arccos of a cosine near 1 has no
    digits left."""

    def finish(self, distance: Tensor) -> Tensor:
        gap = distance.clamp(_ANGLE_MARGIN, 2 - _ANGLE_MARGIN)
        return (gap / 2).sqrt().asin() * (2 * self.scale / math.pi)


class _Masked:
    """Where one target is not (nearly) zero: for each of its gradients a mask, or None where nothing is left
    out, and what the mask leaves of it."""

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


class _MaskedCosine(_Cosine):
    """1 - cos over the elements whose target is not (nearly) zero."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.masked: dict[int, _Masked] = {}

    def gradient_based_loss(self, gradient_rec: Sequence[Tensor], gradient_data: Sequence[Tensor]) -> Tensor:
        masked = self._masked(gradient_data)
        return super().gradient_based_loss(masked.of(gradient_rec), masked.kept)

    def candidate_distance(
        self, model: nn.Module, target: Sequence[Tensor], candidate: Tensor, labels: Tensor
    ) -> CandidateDistance | None:
        if any(mask is not None for mask in self._masked(target).masks):
            return None
        return super().candidate_distance(model, target, candidate, labels)

    def _masked(self, target: Sequence[Tensor]) -> _Masked:
        known = _remembered(self.masked, target, lambda: _Masked(target))
        if not known.serves(target):
            known = self.masked[id(target[0])] = _Masked(target)
        return known


class _Pearlmutter:
    """Value and first-order gradient in one sweep, for breaching's finite differences; goes in front of its
    ``PearlmutterEuclidean``, whose options it takes."""

    kind = "l2"
    weights: tuple[float, ...] | None = (0.5,)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.distances: dict[int, GradientDistance] = {}

    def _compute_objective_and_first_order(
        self, candidate: Tensor, gradients: Sequence[Tensor], gradient_data: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        distance = _remembered(self.distances, gradient_data, lambda: self.make(len(gradient_data)))
        value, first_order = distance.distance_and_gradient(gradients, gradient_data)
        return value * self.scale, first_order

    def make(self, count: int) -> GradientDistance:
        """The distance of lists of `count` gradients."""
        return GradientDistance(self.kind, layers=[0] * count, layer_weights=self.weights)


class _PearlmutterCosine(_Pearlmutter):
    kind, weights = "cosine", None


_REPLACED = {
    "euclidean": _Euclidean,
    "cosine-similarity": _Cosine,
    "masked-cosine-similarity": _MaskedCosine,
    "fast-cosine-similarity": _FastCosine,
    "angular": _Angular,
    "l1": _L1,
    "tag-euclidean": _Tag,
}
_FINITE_DIFFERENCES = {"pearlmutter-loss": _Pearlmutter, "pearlmutter-cosine": _PearlmutterCosine}


def install(*, distance_only: bool = False) -> dict[str, type]:
    """Put fused objectives into ``breaching.attacks.auxiliaries.objectives.objective_lookup``.

    All of breaching's own names keep their meaning and values; each kind of `sapag_fast.GradientDistance`,
    those registered so far included, joins under its own name (``l1`` is breaching's, half of ours).
    Attackers that exist already keep the objectives they have. Installing twice does no harm.

    Parameters
    ----------
    distance_only : bool
        Leave the gradients to breaching, too, where they could be formed together with the distance.

    Returns
    -------
    dict
        What the lookup held before: ``objective_lookup.update(...)`` with it brings breaching's own back.

    Raises
    ------
    ImportError
        Without breaching.
    """
    from breaching.attacks.auxiliaries import objectives as theirs

    lookup = theirs.objective_lookup
    before = dict(lookup)
    ours = (kind for kind in kinds() if issubclass(before.get(kind, _Kind), _Kind))
    parts = dict.fromkeys(ours, _Kind) | _REPLACED
    for name, part in parts.items():
        lookup[name] = _class(part, theirs.GradientLoss, distance_only=distance_only)
    for name, part in _FINITE_DIFFERENCES.items():
        lookup[name] = _class(part, theirs.PearlmutterEuclidean)
    return before


def _class(part: type, base: type, **attributes: Any) -> type:
    known = {"__module__": __name__, "__doc__": part.__doc__}
    return type(part.__name__.lstrip("_"), (part, base), known | attributes)
