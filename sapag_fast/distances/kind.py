"""Distances between a dummy and a target gradient, as scalar mathematics on sums.

Every distance is a differentiable function of `GradientSums`; its gradient with
respect to the dummy gradient is then an affine map per segment,

    V = α·d + β·g + ε·g' + γ + δ·sign(d)

whose coefficients are the derivatives of the distance with respect to the sums. A new distance is one
function here (see :func:`register_distance`) and runs on every kernel.

Sources: SAPAG (Wang et al., IJCNN 2022, the adaptive Gaussian kernel), DLG (Zhu et al., NeurIPS 2019, l2),
Inverting Gradients (Geiping et al., NeurIPS 2020, cosine), TAG (Deng et al., EMNLP 2021, tag).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.distances.sums import GradientSums

# A layer whose norm is below this fraction of the whole gradient's holds rounding, not signal (the key bias
# of a softmax attention has a zero gradient); a variance below this fraction of the mean square is a
# constant's rounding.
RELATIVE_NORM_FLOOR = 1e-6
RELATIVE_VARIANCE_FLOOR = 1e-12
TINY_DUMMY = 1e-24  # of the target's square: the dummy gradient of this layer is zero
NEAR = 0.25  # Σ d² below this part of Σ g²: differences carry more digits than the plain inner product

DistanceFunction = Callable[..., Tensor]


@dataclass(frozen=True)
class Kind:
    """One distance. ``value(sums, weights, bandwidth, l1_weight)`` gives D [R], float64.

    merged: all tensors form one layer. needs: what a layer's target must have to carry weight
    (``"variance"``, ``"norm"`` or ``""``). native: its number among the
    distances that the compiled code computes by itself, or None.
    """

    name: str
    value: DistanceFunction
    merged: bool = False
    needs: str = ""
    bandwidth: float = 1.0
    takes_weights: bool = True
    native: int | None = None

    def layer_weights(self, layers: int) -> Tensor | None:
        """The kind's own weights [L], or None for all ones."""
        return 1.0 / torch.arange(1, layers + 1, dtype=torch.float64) if self.name == "sapag-mean" else None


def degenerate(sums: GradientSums, needs: str) -> Tensor:
    """[R or 1, L] bool: layers that carry no weight because a normalised distance is not defined on them."""
    square = sums.target_square
    if not needs:
        return torch.zeros_like(square, dtype=torch.bool)
    whole = square.sum(-1, keepdim=True)
    bad = (square <= 0) | (square <= RELATIVE_NORM_FLOOR**2 * whole) | (sums.size < 1)
    if needs == "variance":
        bad = bad | (sums.size <= 1) | (sums.target_deviation <= RELATIVE_VARIANCE_FLOOR * square)
    return bad


def unit_difference(sums: GradientSums, dead: Tensor) -> Tensor:
    """‖u' - u‖² [R, L] with u = g/‖g‖: never as 2 - 2 cos near the target, where that loses its digits."""
    target = torch.where(dead, 1.0, sums.target_square)
    b = target.sqrt()
    near = ~dead & (sums.square < NEAR * target)

    square = torch.where(near, sums.square, 0.0)
    cross = torch.where(near, sums.cross, 0.0)
    a = (target + 2 * cross + square).sqrt()
    close = (square - ((square + 2 * cross) / (a + b)).square()) / (a * b)

    zero = dead | (sums.dummy_square <= TINY_DUMMY * target)
    a = torch.where(near | zero, 1.0, sums.dummy_square).sqrt()
    far = torch.where(zero, 1.0, 2.0 - 2.0 * sums.inner / (a * b))
    return torch.where(near, close, far)


def _over_layers(per_layer: Tensor, dead: Tensor, sums: GradientSums, weights: Tensor | None) -> Tensor:
    """Σ_l Q_l·value_l over the layers that are not degenerate. A non-finite gradient shows in the result
    even where its layer carries no weight or the kernel would map it to a finite 1."""
    value = per_layer if weights is None else per_layer * weights
    broken = ~torch.isfinite((sums.square + sums.target_square).detach())
    return torch.where(broken, torch.nan, torch.where(dead, 0.0, value)).sum(-1)


def gaussian(exponent: Tensor) -> Tensor:
    """1 - exp(-z) with all its digits, and with all those of its derivative: autograd takes expm1's as
    1 + expm1, which has none left where z is large."""
    return torch.where(exponent < 1, -torch.expm1(-exponent), 1 - torch.exp(-exponent))


def _sapag(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    dead = degenerate(sums, "variance")
    deviation = torch.where(dead, 1.0, sums.target_deviation)
    z = unit_difference(sums, dead) * sums.target_square / (2 * bandwidth * deviation)
    return _over_layers(gaussian(z), dead, sums, weights)


def _sapag_mean(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    dead = degenerate(sums, "variance")
    z = sums.square / (2 * bandwidth * torch.where(dead, 1.0, sums.target_deviation))
    return _over_layers(gaussian(z), dead, sums, weights)


def _sapag_sum(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    dead = degenerate(sums, "variance")
    z = sums.size * sums.square / (2 * bandwidth * torch.where(dead, 1.0, sums.target_deviation))
    return _over_layers(gaussian(z), dead, sums, weights)


def _sapag_global(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    dead = degenerate(sums, "norm")
    return _over_layers(gaussian(unit_difference(sums, dead) / (2 * bandwidth)), dead, sums, weights)


def _l2(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    return (sums.square if weights is None else sums.square * weights).sum(-1)


def _l2_normalized(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    dead = degenerate(sums, "norm")
    return _over_layers(sums.square / torch.where(dead, 1.0, sums.target_square), dead, sums, weights)


def _cosine(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    dead = degenerate(sums, "norm")
    return _over_layers(0.5 * unit_difference(sums, dead), dead, sums, weights)


def _l1(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    return (sums.absolute if weights is None else sums.absolute * weights).sum(-1)


def _tag(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
    absolute = sums.absolute if weights is None else sums.absolute * weights
    return (sums.square + l1_weight * absolute).sum(-1)


# The numbers are those of csrc/kinds.h.
_KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("sapag", _sapag, needs="variance", native=0),
        Kind("sapag-mean", _sapag_mean, needs="variance", native=1),
        Kind("sapag-sum", _sapag_sum, needs="variance", native=2),
        Kind(
            "sapag-global",
            _sapag_global,
            merged=True,
            needs="norm",
            bandwidth=0.05,
            takes_weights=False,
            native=3,
        ),
        Kind("l2", _l2, native=4),
        Kind("l2-normalized", _l2_normalized, merged=True, needs="norm", takes_weights=False, native=5),
        Kind("cosine", _cosine, merged=True, needs="norm", takes_weights=False, native=6),
        Kind("layer-cosine", _cosine, needs="norm", native=6),
        Kind("l1", _l1, native=7),
        Kind("tag", _tag, native=8),
    )
}


def kinds() -> tuple[str, ...]:
    """Names of all distances, the registered ones too."""
    return tuple(_KINDS)


def find_kind(name: str) -> Kind:
    """The distance of that name. Raises ValueError, with the known names, if there is none."""
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"kind: unknown distance {name!r}; known: {', '.join(_KINDS)}")
    return kind


def register_distance(
    name: str,
    function_of_sums: Callable[..., Tensor],
    *,
    merged: bool = False,
    weighted: bool = False,
) -> None:
    """Make a distance of one's own available under ``name`` in every function, on the same kernels.

    function_of_sums: takes :class:`GradientSums` (float64, [R, L]) and returns D, float64 [R]; plain,
    differentiable PyTorch, each row on its own.  merged: see all tensors as a
    single layer.  weighted: the function takes the layer weights too, as its second argument (float64, [L] or
    [R, L]; ones where none are given). Without, layer weights are the function's own business, and a
    bandwidth always is.

    Raises ValueError if the name is taken, TypeError if the function cannot be called.
    """
    if name in _KINDS:
        raise ValueError(f"name: a distance {name!r} exists already")
    if not callable(function_of_sums):
        raise TypeError(f"function_of_sums: expected a function, found {type(function_of_sums).__name__}")

    def value(sums: GradientSums, weights: Tensor | None, bandwidth: float, l1_weight: float) -> Tensor:
        if not weighted:
            return function_of_sums(sums)
        return function_of_sums(sums, torch.ones_like(sums.size) if weights is None else weights)

    _KINDS[name] = Kind(name, value, merged=merged, takes_weights=weighted)


def value_and_coefficients(
    value: Callable[[GradientSums], Tensor], difference: Tensor, target: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """D [R] and the coefficients (α, β, ε, γ, δ) of V, [R, L, 5], both float64, of a distance given as a
    function of its sums ([R, L, 6], [R or 1, L, 3], [L])."""
    with torch.enable_grad():
        leaf = difference.detach().requires_grad_()
        distance = value(GradientSums.from_columns(leaf, target.detach(), size))
        if distance.shape != difference.shape[:1]:
            raise ValueError(
                f"distance: its function of sums must return shape {tuple(difference.shape[:1])}, "
                f"found {tuple(distance.shape)}"
            )
        (slope,) = torch.autograd.grad(distance.sum(), leaf)
    plain, square, cross, dummy_square, inner, absolute = slope.unbind(-1)
    return distance.detach(), torch.stack([2 * square, cross + inner, 2 * dummy_square, plain, absolute], -1)
