"""The public distance: any two lists of gradients in, a differentiable tensor out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sapag_fast.distances import operators as ops
from sapag_fast.distances.autograd import FunctionalDistance, PlainDistance, Settings, evaluate
from sapag_fast.distances.kind import Kind, degenerate, find_kind
from sapag_fast.distances.layering import Gradients, check_pairs, layer_sizes, layering, shapes_of
from sapag_fast.distances.sums import GradientSums, target_sums

L1_WEIGHT = 0.01


@lru_cache(maxsize=256)
def _default_weights(kind: Kind, layers: int) -> Tensor | None:
    return kind.layer_weights(layers)


@dataclass
class _Target:
    """A target as it was given, and what follows from it alone."""

    given: list[Tensor | None]
    versions: list[int]  # of the tensors that are present; empty where they have none (inference mode)
    kept: list[Tensor]  # those that are present, without their graph
    settings: Settings
    sums: Tensor | None = None

    def is_still(self, target: list[Tensor | None]) -> bool:
        """Whether these are the very same tensors, and nobody has written to them."""
        if len(target) != len(self.given) or len(self.versions) != len(self.kept):
            return False
        versions = iter(self.versions)
        for tensor, old in zip(target, self.given, strict=True):
            if tensor is not old or (tensor is not None and tensor._version != next(versions)):
                return False
        return True

    def remember(self, sums: Tensor | None) -> None:
        if sums is not None:
            self.sums = sums


class GradientDistance:
    """A distance between a dummy and a target gradient: ``distance(dummy, target) -> Tensor``.

    Parameters
    ----------
    kind: one of :func:`sapag_fast.distances.kind`.
    batched: every tensor has a leading dimension R of recoveries (a target's may be 1: shared by all), and
        the result is [R]; else the result has shape ().
    layer_weights: Q_l, [L] or [R, L]; not for kinds that see the whole gradient as one layer. For ``tag`` it
        weighs the absolute term alone.
    bandwidth: s of the Gaussian kernels, > 0. Default 1, 0.05 for ``sapag-global``.
    merge_bias: a vector that follows a tensor whose first dimension it shares joins its layer.
    layers: a layer number for each tensor, in place of that rule.
    variance: of the target, [L] or [R, L], in place of its own; a layer where it is not positive is
        degenerate.
    l1_weight: of the absolute term of ``tag``. Default 0.01.
    backend: ``reference``, ``cpu``, ``triton`` or ``cuda``; None: SAPAG_FAST_BACKEND, else the device's own.

    Gradients are float32, float64, bfloat16 or float16, all alike; the result is float32 (float64 for
    float64), fresh and writable. Pairs of None are left out. The target is a constant: no derivative flows
    into it. What depends on the target alone is computed at the first call and kept for as long as the same
    tensors come back unchanged.

    Raises ValueError or TypeError, naming the argument, for anything that does not fit together.
    """

    def __init__(
        self,
        kind: str = "sapag",
        *,
        batched: bool = False,
        layer_weights: Tensor | Sequence[float] | None = None,
        bandwidth: float | None = None,
        merge_bias: bool = True,
        layers: Sequence[int] | None = None,
        variance: Tensor | Sequence[float] | None = None,
        l1_weight: float | None = None,
        backend: str | None = None,
    ) -> None:
        self.kind = find_kind(kind)
        self.batched = batched
        self.bandwidth = self.kind.bandwidth if bandwidth is None else float(bandwidth)
        if not (self.bandwidth > 0 and math.isfinite(self.bandwidth)):
            raise ValueError(f"bandwidth: expected a positive number, found {bandwidth}")
        self.l1_weight = L1_WEIGHT if l1_weight is None else float(l1_weight)
        if not (self.l1_weight >= 0 and math.isfinite(self.l1_weight)):
            raise ValueError(f"l1_weight: expected a number from 0 on, found {l1_weight}")
        if layer_weights is not None and not self.kind.takes_weights:
            raise ValueError(f"layer_weights: the distance {kind!r} takes none")
        self.layer_weights = _as_rows("layer_weights", layer_weights)
        self.variance = _as_rows("variance", variance)
        self.merge_bias = merge_bias
        self.layers = None if layers is None else tuple(int(layer) for layer in layers)
        self.backend = backend
        self._known: _Target | None = None

    def __call__(self, dummy: Gradients, target: Gradients) -> Tensor:
        """D, shape () or [R], differentiable with respect to ``dummy`` (twice)."""
        mine, known = self._prepare(dummy, target)
        if _transforming():
            return FunctionalDistance.apply(known.settings, *mine, *known.kept)
        if torch.is_grad_enabled() and any(t.requires_grad for t in mine):
            return PlainDistance.apply(known.settings, known.kept, known.sums, known.remember, *mine)
        with torch.no_grad():
            value, _, sums = evaluate(known.settings, mine, known.kept, known.sums, gradient=False)
        known.remember(sums)
        return value

    @property
    def options(self) -> dict[str, Any]:
        """What it was made with, by argument."""
        return {
            "kind": self.kind.name,
            "batched": self.batched,
            "layer_weights": self.layer_weights,
            "bandwidth": self.bandwidth,
            "merge_bias": self.merge_bias,
            "layers": self.layers,
            "variance": self.variance,
            "l1_weight": self.l1_weight,
            "backend": self.backend,
        }

    def copy(self, **changes: Any) -> "GradientDistance":
        """The same distance with some of its options changed, and nothing in its cache."""
        return GradientDistance(**(self.options | changes))

    def distance_and_gradient(
        self, dummy: Gradients, target: Gradients, out: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """D and V = ∂D/∂g' shaped like ``dummy`` (None where it is None), without autograd; not for use
        inside of torch.func transforms.

        out: tensors like ``dummy`` that V is written to, in place of fresh ones.
        """
        mine, known = self._prepare(dummy, target)
        places = None if out is None else [t for t in out if t is not None]
        with torch.no_grad():
            value, slopes, sums = evaluate(
                known.settings, mine, known.kept, known.sums, gradient=True, out=places
            )
        known.remember(sums)
        if len(known.given) == len(slopes):
            return value, list(slopes)
        present = iter(slopes)
        return value, [None if t is None else next(present) for t in known.given]

    def settings(self, target: Gradients) -> Settings:
        """Layers, sizes, weights and backend of this distance for a target like this one."""
        given = list(target)
        return self._settle(shapes_of(given, self.batched), [t for t in given if t is not None])

    @torch.no_grad()
    def degenerate(self, target: Gradients) -> Tensor:
        """Layers of ``target`` that carry no weight in this distance: bool [L] or [R, L]. They have no
        elements or a norm below 1e-6 of the whole gradient's; for the Gaussian kernels also one element or
        no variance. ``l2``, ``l1`` and ``tag`` divide by nothing and have none."""
        _, known = self._prepare(target := list(target), target)
        size = known.settings.sizes(known.kept)
        sums = target_sums(known.kept, known.settings.found, self.batched)
        if self.variance is not None:
            sums = sums.expand(max(sums.shape[0], *self.variance.shape[:-1], 1), -1, -1).clone()
            sums[..., 2] = self.variance * size
        columns = GradientSums.from_columns(sums.new_zeros(*sums.shape[:-1], 6), sums, size)
        mask = degenerate(columns, self.kind.needs)
        return mask if self.batched else mask[0]

    def _prepare(self, dummy: Gradients, target: Gradients) -> tuple[list[Tensor], _Target]:
        """The dummy gradients that are present, and the target with all that is known of it."""
        mine, theirs = list(dummy), list(target)
        known = self._known
        if known is None or _transforming() or not known.is_still(theirs):
            check_pairs(mine, theirs)
            _check_alike(mine, theirs, self.batched)
            known = self._meet(theirs)
        elif known.settings.backend == "reference" or not _same_places(mine, theirs):
            check_pairs(mine, theirs)
            _check_alike(mine, theirs, self.batched)
        if len(known.kept) < len(mine):
            mine = [t for t in mine if t is not None]
        return mine, known

    def _meet(self, theirs: list[Tensor | None]) -> _Target:
        """Learn a new target."""
        present = [t for t in theirs if t is not None]
        settings = self._settle(shapes_of(theirs, self.batched), present)
        kept = [t.detach() for t in present]
        if _transforming():
            return _Target(theirs, [], kept, settings)
        # An inference tensor has no version: nobody can tell whether it was written to.
        versions = [] if any(t.is_inference() for t in present) else [t._version for t in present]
        self._known = _Target(theirs, versions, kept, settings)
        return self._known

    def _settle(self, shapes: tuple, present: list[Tensor]) -> Settings:
        device = present[0].device
        found = layering(shapes, self.merge_bias, self.layers)
        if self.kind.merged:
            found = found.merged()
        weights = self.layer_weights
        if weights is None:
            weights = _default_weights(self.kind, found.layers)
        for name, rows in (("layer_weights", weights), ("variance", self.variance)):
            if rows is not None and rows.shape[-1] != found.layers:
                raise ValueError(
                    f"{name}: expected one value for each of {found.layers} layers, found {rows.shape[-1]}"
                )
        return Settings(
            self.kind,
            found,
            self.batched,
            self.bandwidth,
            self.l1_weight,
            ops.choose_backend(self.backend, device),
            None if _transforming() else layer_sizes(present, found, self.batched),
            None if weights is None else weights.to(device),
            None if self.variance is None else self.variance.to(device),
        )


def _transforming() -> bool:
    """Inside of torch.compile or a torch.func transform, where tensors are not what they seem."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _same_places(mine: Sequence[object], theirs: Sequence[Tensor | None]) -> bool:
    """Both lists have tensors, and None, in the same places."""
    if len(mine) != len(theirs):
        return False
    return all(
        isinstance(a, Tensor) if g is not None else a is None for a, g in zip(mine, theirs, strict=True)
    )


def _as_rows(name: str, given: Tensor | Sequence[float] | None) -> Tensor | None:
    if given is None:
        return None
    if isinstance(given, Tensor) and torch._C._functorch.is_batchedtensor(given):
        raise ValueError(
            f"{name}: cannot be mapped over by torch.func.vmap; use batched=True with rows [R, L]"
        )
    rows = torch.as_tensor(given, dtype=torch.float64).detach()
    if rows.dim() not in (1, 2):
        raise ValueError(f"{name}: expected shape [L] or [R, L], found {tuple(rows.shape)}")
    return rows


def _check_alike(mine: Sequence[Tensor | None], theirs: Sequence[Tensor | None], batched: bool) -> None:
    """The checks that csrc/bindings.cpp makes too, for backends that do not come by there and for the first
    look at new shapes, where a mixture of devices would otherwise show as a failed dispatch."""
    pairs = [
        (i, a, g)
        for i, (a, g) in enumerate(zip(mine, theirs, strict=True))
        if a is not None and g is not None
    ]
    first = pairs[0][1]
    if not first.is_floating_point():
        raise TypeError(f"dummy[0]: expected float32, float64, bfloat16 or float16, found {first.dtype}")
    lead = 1 if batched else 0
    for i, a, g in pairs:
        for name, tensor in ((f"dummy[{i}]", a), (f"target[{i}]", g)):
            if tensor.device != first.device:
                raise ValueError(
                    f"{name}: expected a tensor on {first.device} as the first, found {tensor.device}"
                )
            if tensor.dtype != first.dtype:
                raise TypeError(
                    f"{name}: expected {first.dtype} as in the first tensor, found {tensor.dtype}"
                )
            if batched and tensor.dim() == 0:
                raise ValueError(
                    f"{name}: batched=True needs a leading recoveries' dimension, found shape ()"
                )
        if batched and a.shape[0] != first.shape[0]:
            raise ValueError(
                f"dummy[{i}]: expected {first.shape[0]} recoveries in front, found shape {tuple(a.shape)}"
            )
        if batched and g.shape[0] != theirs[pairs[0][0]].shape[0]:
            raise ValueError(
                f"target[{i}]: expected {theirs[pairs[0][0]].shape[0]} recoveries in front as in the first, "
                f"found shape {tuple(g.shape)}"
            )
        if batched and g.shape[0] not in (1, first.shape[0]):
            raise ValueError(
                f"target[{i}]: expected {first.shape[0]} recoveries in front (or 1, shared by all), "
                f"found shape {tuple(g.shape)}"
            )
        if a.shape[lead:] != g.shape[lead:]:
            raise ValueError(
                f"target[{i}]: expected shape {tuple(a.shape)} as dummy[{i}], found {tuple(g.shape)}"
            )


def distance(
    dummy: Gradients,
    target: Gradients,
    kind: str = "sapag",
    *,
    batched: bool = False,
    layer_weights: Tensor | Sequence[float] | None = None,
    bandwidth: float | None = None,
    merge_bias: bool = True,
    layers: Sequence[int] | None = None,
    variance: Tensor | Sequence[float] | None = None,
    l1_weight: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """The distance of one pair of gradients, differentiable in ``dummy``; shape () or [R]. The options are
    those of :class:`GradientDistance`, which a loop should prefer: it keeps the target's variances."""
    return GradientDistance(
        kind,
        batched=batched,
        layer_weights=layer_weights,
        bandwidth=bandwidth,
        merge_bias=merge_bias,
        layers=layers,
        variance=variance,
        l1_weight=l1_weight,
        backend=backend,
    )(dummy, target)


def distance_and_gradient(
    dummy: Gradients,
    target: Gradients,
    kind: str = "sapag",
    *,
    out: Sequence[Tensor] | None = None,
    **options,
) -> tuple[Tensor, list[Tensor | None]]:
    """D and V = ∂D/∂g', shaped like ``dummy``, in one sweep over memory and without autograd; options as for
    :class:`GradientDistance`, ``out`` as for :meth:`GradientDistance.distance_and_gradient`."""
    return GradientDistance(kind, **options).distance_and_gradient(dummy, target, out)


def gradient_variance(
    gradients: Gradients,
    *,
    batched: bool = False,
    merge_bias: bool = True,
    layers: Sequence[int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Biased variance of every layer's gradient (SAPAG's kernel width), [L] or [R, L], in float32 (float64
    for float64 gradients); 0 for a layer of one element, nan for one without elements."""
    given = list(gradients)
    check_pairs(given, given)
    _check_alike(given, given, batched)
    found = layering(shapes_of(given, batched), merge_bias, None if layers is None else tuple(layers))
    kept = [t.detach() for t in given if t is not None]
    name = ops.choose_backend(backend, kept[0].device)
    with torch.no_grad():
        if name == "reference":
            sums = target_sums(kept, found, batched)
        else:
            sums = ops.target_sums(name, kept, found, batched)
        variance = (sums[..., 2] / layer_sizes(kept, found, batched)).to(ops.result_dtype(kept))
    return variance if batched else variance[0]
