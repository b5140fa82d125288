"""The distances that tools compute, as `GradientDistance` objects that live on between calls.

Tools pass bare functions around, but what depends on the target alone is worth keeping: equal settings get
the same object, which knows its last target again for as long as somebody else keeps it. What the built-in
kinds do not cover are `Kind` objects of this module's own, outside of the public table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.distances.autograd import transforming
from sapag_fast.distances.formulas import unit_difference
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import Kind, find_kind
from sapag_fast.distances.layering import Gradients
from sapag_fast.distances.sums import GradientSums
from sapag_fast.distances.target_cache import LentTarget

__all__ = [
    "check_options",
    "fixed_norm_cosine",
    "kept",
    "least_norm_cosines",
    "separate",
    "tensor_cosines",
    "tensor_norms",
    "weighted_cosine",
]

_OPTIONS = ("bandwidth", "layer_weights", "merge_bias", "layers", "variance", "l1_weight", "backend")
_LEAST_NORM = 1e-10  # Inverting Gradients' own: a shorter tensor is divided by this


class _KeptDistance(GradientDistance):
    """A distance that lives as long as the process, and keeps no victim's gradient alive between calls.

    It knows its last target again for as long as its owner has it.
    """

    _lent: LentTarget | None = None

    def __call__(self, dummy: Gradients, target: Gradients) -> Tensor:
        """As of `GradientDistance`."""
        if transforming():
            return super().__call__(dummy, target)
        theirs = check.check_tensors("target", target)
        lent = self._lent
        self._known = regained = None if lent is None else lent.known_again(theirs)
        try:
            return super().__call__(dummy, theirs)
        finally:
            known, self._known = self._known, None
            if known is not None and (known is not regained or lent is None or known.sums is not lent.sums):
                self._lent = LentTarget(known)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_lent": None}


@lru_cache(maxsize=64)
def _kept(kind: str | Kind, options: tuple[tuple[str, Any], ...]) -> GradientDistance:
    return _KeptDistance(kind, **dict(options))


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what is no option of `GradientDistance`.

    Raises
    ------
    TypeError
        Naming it, and those that there are.
    """
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise TypeError(f"{unknown[0]}: expected an option of a distance ({', '.join(_OPTIONS)}), found none")


def kept(kind: str | Kind, **options: Any) -> GradientDistance:
    """The distance with these options, made at the first call; sequences may be lists or tuples."""
    check_options(options)
    if not isinstance(kind, str):
        kind = find_kind(kind)
    plain = {
        name: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in options.items()
    }
    return _kept(kind, tuple(sorted(plain.items())))


def separate(kind: str | Kind, weights: Sequence[float], **options: Any) -> GradientDistance:
    """`kind` with one layer, and one weight, for each tensor."""
    return kept(kind, layers=range(len(weights)), layer_weights=tuple(weights), **options)


def tensor_cosines(weights: Sequence[float]) -> GradientDistance:
    """Σ w·(1 - cos) over tensors, however short; the cosine with a tensor of zeros is 0."""
    return separate(_TENSOR_COSINES, weights)


def least_norm_cosines(weights: Sequence[float]) -> GradientDistance:
    """The same with norms below 1e-10 counted as 1e-10: what such a tensor holds fades out."""
    return separate(_LEAST_NORM_COSINES, weights)


def weighted_cosine(weights: Sequence[float]) -> GradientDistance:
    """1 - cosine of the whole gradients, tensor i counting w_i times in the product and in both norms."""
    if all(weight == 1 for weight in weights):
        return kept("cosine")
    return separate(_WEIGHTED_COSINE, weights)


def fixed_norm_cosine() -> GradientDistance:
    """1 - cosine of the whole gradients, whose derivative takes the dummy gradient's norm for a constant."""
    return kept(_FIXED_NORM_COSINE)


def tensor_norms(weights: Sequence[float]) -> GradientDistance:
    """Σ w·‖d‖ over tensors, not squared; a tensor without a difference has no derivative."""
    return separate(_TENSOR_NORMS, weights)


def _tensor_cosines(sums: GradientSums, weights: Tensor) -> Tensor:
    zero = (sums.target_square <= 0) | (sums.dummy_square <= 0)
    return (weights * torch.where(zero, 1.0, 0.5 * unit_difference(sums, zero))).sum(-1)


def _least_norm_cosines(sums: GradientSums, weights: Tensor) -> Tensor:
    short = (sums.target_square < _LEAST_NORM**2) | (sums.dummy_square < _LEAST_NORM**2)
    inner = sums.inner / (_at_least(sums.dummy_square) * _at_least(sums.target_square))
    return (weights * torch.where(short, 1 - inner, 0.5 * unit_difference(sums, short))).sum(-1)


def _at_least(square: Tensor) -> Tensor:
    """A norm, or the least one; its derivative stays the norm's, as that of torch's cosine_similarity."""
    norm = torch.where(square > 0, square, _LEAST_NORM**2).sqrt()
    return norm + (norm.detach().clamp(min=_LEAST_NORM) - norm.detach())


def _weighted_cosine(sums: GradientSums, weights: Tensor) -> Tensor:
    def total(column: Tensor) -> Tensor:
        return (weights * column).sum(-1, keepdim=True)

    whole = replace(
        sums,
        square=total(sums.square),
        cross=total(sums.cross),
        dummy_square=total(sums.dummy_square),
        inner=total(sums.inner),
        target_square=total(sums.target_square),
    )
    return 0.5 * unit_difference(whole, whole.target_square <= 0).squeeze(-1)


def _fixed_norm_cosine(sums: GradientSums) -> Tensor:
    norms = sums.dummy_square.detach().sqrt() * sums.target_square.sqrt()
    return (1 - sums.inner / norms).squeeze(-1)


def _tensor_norms(sums: GradientSums, weights: Tensor) -> Tensor:
    some = sums.square > 0
    return (weights * torch.where(some, torch.where(some, sums.square, 1.0).sqrt(), 0.0)).sum(-1)


_TENSOR_COSINES = Kind.of_sums("tensor-cosines", _tensor_cosines, weighted=True)
_LEAST_NORM_COSINES = Kind.of_sums("least-norm-cosines", _least_norm_cosines, weighted=True)
_WEIGHTED_COSINE = Kind.of_sums("weighted-cosine", _weighted_cosine, weighted=True)
_FIXED_NORM_COSINE = Kind.of_sums("fixed-norm-cosine", _fixed_norm_cosine, merged=True)
_TENSOR_NORMS = Kind.of_sums("tensor-norms", _tensor_norms, weighted=True)
