"""The only file that touches the compiled distance: which backend runs, and what its operators return.

The operators are declared in csrc/bindings.cpp (``torch.ops.sapag_fast``, for the CPU and CUDA kernels) and,
with the same schemas, in kernels/operators.py (``torch.ops.sapag_fast_triton``). They know nothing of
autograd; here they get the shapes that torch.compile needs.
"""

import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sapag_fast import _C  # noqa: F401 (registers the operators)
from sapag_fast.distances.layering import Layering

BACKENDS = ("reference", "cpu", "triton", "cuda")


@cache
def has_cuda_kernels() -> bool:
    """Whether the compiled module was built with the CUDA kernels."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("sapag_fast::distance", "CUDA")


@cache
def has_triton() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def _own_backend(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    if device.type == "cuda" and torch.version.hip is None and has_cuda_kernels():
        return "cuda"
    return "triton" if device.type == "cuda" and has_triton() else "reference"


def choose_backend(requested: str | None, device: torch.device) -> str:
    """The backend for tensors on ``device``: ``requested``, else SAPAG_FAST_BACKEND, else the device's own
    kernels (on a GPU CUDA, or Triton where CUDA was not built), else the reference. Raises ValueError for an
    unknown name or one that cannot serve the device."""
    name = requested or os.environ.get("SAPAG_FAST_BACKEND") or _own_backend(device)
    if name not in BACKENDS:
        raise ValueError(f"backend: unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"backend: 'cpu' kernels need tensors on the CPU, found {device}")
    if name == "cuda" and device.type != "cuda":
        raise ValueError(f"backend: 'cuda' kernels need tensors on a GPU, found {device}")
    if name == "cuda" and not has_cuda_kernels():
        raise ValueError("backend: sapag_fast was built without its CUDA kernels (no nvcc was found)")
    if name == "triton" and not has_triton():
        raise ValueError("backend: 'triton' needs the package triton, which is not installed")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if name == "triton" and device.type != "cuda" and not interpreted:
        raise ValueError(
            f"backend: 'triton' kernels need tensors on a GPU (or TRITON_INTERPRET=1), found {device}"
        )
    return name


@torch.compiler.assume_constant_result
def _register_triton() -> bool:
    """Import what registers the Triton operators: a constant to torch.compile, which cannot trace imports."""
    importlib.import_module("sapag_fast.kernels.operators")
    return True


def _operators(backend: str) -> Any:
    if backend == "triton":
        _register_triton()
        return torch.ops.sapag_fast_triton
    return torch.ops.sapag_fast


def cpu_capability() -> str:
    """The instruction set that the CPU kernels run with: ``avx512``, ``avx2`` or ``baseline``. The
    environment variable SAPAG_FAST_CPU_CAPABILITY, read at the first call, can lower it."""
    return torch.ops.sapag_fast.cpu_capability()


def target_sums(backend: str, target: Sequence[Tensor], found: Layering, batched: bool) -> Tensor:
    """Σ g, Σ g², Σ (g - mean)² a layer: float64 [R or 1, L, 3]."""
    return _operators(backend).target_sums(target, found.layer_of, found.layers, batched)


def difference_sums(
    backend: str, dummy: Sequence[Tensor], target: Sequence[Tensor], found: Layering, batched: bool
) -> Tensor:
    """Σ d, Σ d², Σ d·g, Σ g'², Σ g'·g, Σ|d| a segment: float64 [R, L, 6]."""
    return _operators(backend).difference_sums(dummy, target, found.layer_of, found.layers, batched)


def apply(
    backend: str,
    dummy: Sequence[Tensor],
    target: Sequence[Tensor],
    found: Layering,
    batched: bool,
    coefficients: Tensor,
) -> list[Tensor]:
    """V = α·d + β·g + ε·g' + γ + δ·sign(d), shaped like ``dummy``; coefficients float64 [R, L, 5]."""
    return _operators(backend).apply(dummy, target, found.layer_of, found.layers, batched, coefficients)


def distance(
    backend: str,
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
    return _operators(backend).distance(
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
    backend: str,
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
        return _operators(backend).distance_and_gradient(dummy, target, *options)
    return *_operators(backend).distance_and_gradient_out(dummy, target, *options, out), out


def scale(backend: str, slopes: Sequence[Tensor], grad: Tensor, batched: bool) -> None:
    """V times ``grad`` (shape () or [R]) in place, without a pass over V where it is 1."""
    _operators(backend).scale_(slopes, grad, batched)


def result_dtype(dummy: Sequence[Tensor]) -> torch.dtype:
    """float64 for float64 gradients, float32 for all others: a half's distance would lose its digits."""
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
    result = dummy[0].new_empty(shape, dtype=result_dtype(dummy))
    rows = _recoveries(target, batched) if cached is None else 0
    return result, target[0].new_empty((rows, layers, 3), dtype=torch.float64)


def _fake_distance_and_gradient(dummy, target, layer_of, layers, batched, *options):
    return (
        *_fake_distance(dummy, target, layer_of, layers, batched, *options),
        _fake_apply(dummy, target, layer_of, layers, batched, None),
    )


def _fake_distance_and_gradient_out(dummy, target, layer_of, layers, batched, *options):
    return _fake_distance(dummy, target, layer_of, layers, batched, *options[:-1])


def _fake_scale(slopes, grad, batched):
    return None


torch.library.register_fake("sapag_fast::scale_", _fake_scale)
torch.library.register_fake("sapag_fast::target_sums", _fake_target_sums)
torch.library.register_fake("sapag_fast::difference_sums", _fake_difference_sums)
torch.library.register_fake("sapag_fast::apply", _fake_apply)
torch.library.register_fake("sapag_fast::distance", _fake_distance)
torch.library.register_fake("sapag_fast::distance_and_gradient", _fake_distance_and_gradient)
torch.library.register_fake("sapag_fast::distance_and_gradient_out", _fake_distance_and_gradient_out)
