"""The only file that touches compiled code: which backend runs, and what its operators return.

The operators (``torch.ops.sapag_fast.*``) are declared in csrc/bindings.cpp. They know nothing of autograd;
here they get the shapes that torch.compile needs.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from sapag_fast import _C  # noqa: F401 (registers the operators)
from sapag_fast.segments import Layering

_ops = torch.ops.sapag_fast

BACKENDS = ("reference", "cpu")


def choose_backend(requested: str | None, device: torch.device) -> str:
    """The backend for tensors on ``device``: ``requested``, else SAPAG_FAST_BACKEND, else the device's own
    kernels, else the reference. Raises ValueError for an unknown name or one that cannot serve the device."""
    name = (
        requested or os.environ.get("SAPAG_FAST_BACKEND") or ("cpu" if device.type == "cpu" else "reference")
    )
    if name not in BACKENDS:
        raise ValueError(f"backend: unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"backend: 'cpu' kernels need tensors on the CPU, found {device}")
    return name


def cpu_capability() -> str:
    """The instruction set that the CPU kernels run with: ``avx512``, ``avx2`` or ``baseline``. The
    environment variable SAPAG_FAST_CPU_CAPABILITY, read at the first call, can lower it."""
    return _ops.cpu_capability()


def target_sums(target: Sequence[Tensor], found: Layering, batched: bool) -> Tensor:
    """Σ g, Σ g², Σ (g - mean)² a layer: float64 [R or 1, L, 3]."""
    return _ops.target_sums(target, found.layer_of, found.layers, batched)


def difference_sums(
    dummy: Sequence[Tensor], target: Sequence[Tensor], found: Layering, batched: bool
) -> Tensor:
    """Σ d, Σ d², Σ d·g, Σ g'², Σ g'·g, Σ|d| a segment: float64 [R, L, 6]."""
    return _ops.difference_sums(dummy, target, found.layer_of, found.layers, batched)


def apply(
    dummy: Sequence[Tensor], target: Sequence[Tensor], found: Layering, batched: bool, coefficients: Tensor
) -> list[Tensor]:
    """V = α·d + β·g + ε·g' + γ + δ·sign(d), shaped like ``dummy``; coefficients float64 [R, L, 5]."""
    return _ops.apply(dummy, target, found.layer_of, found.layers, batched, coefficients)


def distance(
    dummy: Sequence[Tensor],
    target: Sequence[Tensor],
    found: Layering,
    batched: bool,
    kind: int,
    bandwidth: float,
    l1_weight: float,
    weights: Tensor | None,
    variance: Tensor | None,
    cached: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """D (shape () or [R]) of a native distance, and the target's sums (empty if ``cached`` holds them)."""
    return _ops.distance(
        dummy,
        target,
        found.layer_of,
        found.layers,
        batched,
        kind,
        bandwidth,
        l1_weight,
        weights,
        variance,
        cached,
    )


def distance_and_gradient(
    dummy: Sequence[Tensor],
    target: Sequence[Tensor],
    found: Layering,
    batched: bool,
    kind: int,
    bandwidth: float,
    l1_weight: float,
    weights: Tensor | None,
    variance: Tensor | None,
    cached: Tensor | None,
    out: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """D, the target's sums (empty if cached) and V shaped like ``dummy``, written to ``out`` if given."""
    options = (found.layer_of, found.layers, batched, kind, bandwidth, l1_weight, weights, variance, cached)
    if out is None:
        return _ops.distance_and_gradient(dummy, target, *options)
    return *_ops.distance_and_gradient_out(dummy, target, *options, out), out


def _distance_dtype(dummy: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if dummy[0].dtype == torch.float64 else torch.float32


def _recoveries(tensors: Sequence[Tensor], batched: bool) -> int:
    return tensors[0].shape[0] if batched else 1


def _fake_target_sums(target, layer_of, layers, batched):
    return target[0].new_empty((_recoveries(target, batched), layers, 3), dtype=torch.float64)


def _fake_difference_sums(dummy, target, layer_of, layers, batched):
    return dummy[0].new_empty((_recoveries(dummy, batched), layers, 6), dtype=torch.float64)


def _fake_apply(dummy, target, layer_of, layers, batched, coefficients):
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in dummy]


def _fake_distance(
    dummy, target, layer_of, layers, batched, kind, bandwidth, l1_weight, weights, variance, cached
):
    shape = dummy[0].shape[:1] if batched else ()
    result = dummy[0].new_empty(shape, dtype=_distance_dtype(dummy))
    rows = _recoveries(target, batched) if cached is None else 0
    return result, target[0].new_empty((rows, layers, 3), dtype=torch.float64)


def _fake_distance_and_gradient(dummy, target, layer_of, layers, batched, *options):
    return (
        *_fake_distance(dummy, target, layer_of, layers, batched, *options),
        _fake_apply(dummy, target, layer_of, layers, batched, None),
    )


def _fake_distance_and_gradient_out(dummy, target, layer_of, layers, batched, *options):
    return _fake_distance(dummy, target, layer_of, layers, batched, *options[:-1])


torch.library.register_fake("sapag_fast::target_sums", _fake_target_sums)
torch.library.register_fake("sapag_fast::difference_sums", _fake_difference_sums)
torch.library.register_fake("sapag_fast::apply", _fake_apply)
torch.library.register_fake("sapag_fast::distance", _fake_distance)
torch.library.register_fake("sapag_fast::distance_and_gradient", _fake_distance_and_gradient)
torch.library.register_fake("sapag_fast::distance_and_gradient_out", _fake_distance_and_gradient_out)
