"""Functions over `GradientDistance`, for one pair of gradients at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.distances import operators as ops
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import Kind
from sapag_fast.distances.layering import Gradients, layer_sizes, layering, shapes_of
from sapag_fast.distances.pairs import check_alike, check_pairs
from sapag_fast.distances.sums import target_sums


def distance(
    dummy: Gradients,
    target: Gradients,
    kind: str | Kind = "sapag",
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
    """The distance of one pair of gradients, differentiable in ``dummy``.

    A loop should prefer `GradientDistance`, which keeps what depends on the target alone.

    Parameters
    ----------
    dummy, target : iterable of (Tensor or None)
        The two gradients: all alike in type and device, pairs of None left out.
    kind, batched, layer_weights, bandwidth, merge_bias, layers, variance, l1_weight, backend
        As in `GradientDistance`.

    Returns
    -------
    Tensor
        Shape ``()``, or ``[R]`` with ``batched``.

    Raises
    ------
    ValueError, TypeError
        As `GradientDistance` does.
    """
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
    kind: str | Kind = "sapag",
    *,
    out: Sequence[Tensor] | None = None,
    **options: Any,
) -> tuple[Tensor, list[Tensor | None]]:
    """D and V = ∂D/∂g', in one sweep over memory and without autograd.

    Parameters
    ----------
    dummy, target, out
        As in `GradientDistance.distance_and_gradient`.
    kind, **options
        As in `GradientDistance`.

    Returns
    -------
    tuple
        D, shape ``()`` or ``[R]``, and V shaped like ``dummy``.
    """
    return GradientDistance(kind, **options).distance_and_gradient(dummy, target, out)


def gradient_variance(
    gradients: Gradients,
    *,
    batched: bool = False,
    merge_bias: bool = True,
    layers: Sequence[int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Biased variance of every layer's gradient: SAPAG's kernel width.

    Parameters
    ----------
    gradients : iterable of (Tensor or None)
        With ``batched``, each ``[R, ...]``.
    batched, merge_bias, layers, backend
        As in `GradientDistance`.

    Returns
    -------
    Tensor
        ``[L]`` or ``[R, L]``, float32 (float64 for float64 gradients); 0 for a layer of one element, nan for
        one without elements.
    """
    given = check.check_tensors("gradients", gradients)
    batched, merge_bias = check.check_flag("batched", batched), check.check_flag("merge_bias", merge_bias)
    check_pairs(given, given, "gradients")
    check_alike(given, given, batched, "gradients")
    numbers = None if layers is None else check.check_integers("layers", layers)
    own_layers = layering(shapes_of(given, batched), merge_bias, numbers)
    present = [t.detach() for t in given if t is not None]
    name = ops.choose_backend(backend, present[0].device)
    with torch.no_grad():
        if name == "reference":
            sums = target_sums(present, own_layers, batched)
        else:
            sums = ops.target_sums(name, present, own_layers, batched)
        variance = (sums[..., 2] / layer_sizes(present, own_layers, batched)).to(ops.result_dtype(present))
    return variance if batched else variance[0]
