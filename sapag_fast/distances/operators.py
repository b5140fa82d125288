"""The only file that touches the compiled distance: which backend runs, and what its operators return.

The operators are declared in csrc/bindings.cpp (``torch.ops.sapag_fast``, for the CPU and CUDA kernels) and,
with the same schemas, in kernels/operators.py (``torch.ops.sapag_fast_triton``). They know nothing of
autograd. Under each stands its fake, the shapes that torch.compile needs, for both families.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from sapag_fast import _C  # noqa: F401 (registers the operators)  # pyright: ignore[reportAttributeAccessIssue]
from sapag_fast.distances.layering import Layering

BACKENDS = ("reference", "cpu", "triton", "cuda")

Fake = TypeVar("Fake", bound=Callable[..., Any])
FAKES: dict[str, Callable[..., Any]] = {}
"""By operator: what each family's operator returns, without its numbers."""


class Options(NamedTuple):
    """What a distance is told beside its gradients, in the order of the operators' schemas.

    Attributes
    ----------
    kind : int or None
        Its number among the distances that the kernels know; None for others, which they cannot compute.
    bandwidth, l1_weight : float
        s of the Gaussian kernels; c of ``tag``.
    weights, variance : Tensor or None
        float64 ``[L]`` or ``[R, L]``.
    """

    kind: int | None
    bandwidth: float
    l1_weight: float
    weights: Tensor | None = None
    variance: Tensor | None = None


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
    """The backend for tensors on a device.

    Parameters
    ----------
    requested : str or None
        One of `BACKENDS`. None: SAPAG_FAST_BACKEND, else the device's own kernels (on a GPU CUDA, or Triton
        where CUDA was not built), else the reference.
    device : torch.device
        Where the gradients are.

    Raises
    ------
    ValueError
        For an unknown name, or one that cannot serve the device.
    """
    name = requested
    if name is None:
        name = os.environ.get("SAPAG_FAST_BACKEND") or _own_backend(device)
    if name not in BACKENDS:
        source = "SAPAG_FAST_BACKEND" if requested is None else "backend"
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, found {name!r}")
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"backend: 'cpu' kernels need tensors on the CPU, found {device}")
    if name == "cuda" and device.type != "cuda":
        raise ValueError(f"backend: 'cuda' kernels need tensors on a GPU, found {device}")
    if name == "cuda" and not has_cuda_kernels():
        raise ValueError("backend: sapag_fast was built without its CUDA kernels (no nvcc was found)")
    if name == "triton" and not has_triton():
        raise ValueError(
            "backend: 'triton' needs triton, which is not installed: pip install \"sapag_fast[triton]\""
        )
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
    """The instruction set that the CPU kernels run with: ``avx512``, ``avx2`` or ``baseline``.

    The environment variable SAPAG_FAST_CPU_CAPABILITY, read at the first call, can lower it.
    """
    return torch.ops.sapag_fast.cpu_capability()


def _fake(operator: str) -> Callable[[Fake], Fake]:
    """Register a fake for an operator of the compiled family, and keep it for the Triton family.

    torch takes none for operators that are not defined yet, and Triton's are not before their module is
    imported.
    """

    def register(function: Fake) -> Fake:
        torch.library.register_fake(f"sapag_fast::{operator}", function)
        FAKES[operator] = function
        return function

    return register


def result_dtype(dummy: Sequence[Tensor]) -> torch.dtype:
    """float64 for float64 gradients, float32 for all others: a half's distance would lose its digits."""
    return torch.float64 if dummy[0].dtype == torch.float64 else torch.float32


def _recoveries(tensors: Sequence[Tensor], batched: bool) -> int:
    return tensors[0].shape[0] if batched else 1


def target_sums(backend: str, target: Sequence[Tensor], layering: Layering, batched: bool) -> Tensor:
    """Σ g, Σ g², Σ (g - mean)² of each layer: float64 ``[R or 1, L, 3]``."""
    return _operators(backend).target_sums.default(target, layering.layer_of, layering.layers, batched)


@_fake("target_sums")
def _fake_target_sums(target, layer_of, layers, batched):
    return target[0].new_empty((_recoveries(target, batched), layers, 3), dtype=torch.float64)


def difference_sums(
    backend: str, dummy: Sequence[Tensor], target: Sequence[Tensor], layering: Layering, batched: bool
) -> Tensor:
    """Σ d, Σ d², Σ d·g, Σ g'², Σ g'·g, Σ|d| of each segment: float64 ``[R, L, 6]``."""
    return _operators(backend).difference_sums.default(
        dummy, target, layering.layer_of, layering.layers, batched
    )


@_fake("difference_sums")
def _fake_difference_sums(dummy, target, layer_of, layers, batched):
    return dummy[0].new_empty((_recoveries(dummy, batched), layers, 6), dtype=torch.float64)


def apply(
    backend: str,
    dummy: Sequence[Tensor],
    target: Sequence[Tensor],
    layering: Layering,
    batched: bool,
    coefficients: Tensor,
) -> list[Tensor]:
    """V = α·d + β·g + ε·g' + γ + δ·sign(d), shaped like ``dummy``; coefficients float64 ``[R, L, 5]``."""
    return _operators(backend).apply.default(
        dummy, target, layering.layer_of, layering.layers, batched, coefficients
    )


@_fake("apply")
def _fake_apply(dummy, target, layer_of, layers, batched, coefficients):
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in dummy]


def distance(
    backend: str,
    dummy: Sequence[Tensor],
    target: Sequence[Tensor],
    layering: Layering,
    batched: bool,
    options: Options,
    cached: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """D of a distance that the kernels know, and the target's sums.

    Parameters
    ----------
    backend : str
        As from `choose_backend`.
    dummy, target : sequence of Tensor
        With ``batched``, ``[R, ...]`` and ``[R or 1, ...]``.
    layering : Layering
        Which tensors form a layer.
    batched : bool
        Whether tensors have a leading dimension of recoveries.
    options : Options
        Kind and numbers.
    cached : Tensor or None
        The target's sums from an earlier call, float64 ``[R or 1, L, 3]``.

    Returns
    -------
    tuple of Tensor
        D, shape ``()`` or ``[R]``, and the target's sums, empty if ``cached`` holds them.
    """
    return _operators(backend).distance.default(
        dummy, target, layering.layer_of, layering.layers, batched, *options, cached
    )


@_fake("distance")
def _fake_distance(dummy, target, layer_of, layers, batched, *options):
    shape = dummy[0].shape[:1] if batched else ()
    result = dummy[0].new_empty(shape, dtype=result_dtype(dummy))
    cached = options[-1]
    rows = _recoveries(target, batched) if cached is None else 0
    return result, target[0].new_empty((rows, layers, 3), dtype=torch.float64)


def distance_and_gradient(
    backend: str,
    dummy: Sequence[Tensor],
    target: Sequence[Tensor],
    layering: Layering,
    batched: bool,
    options: Options,
    cached: Tensor | None,
    out: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """D, the target's sums and V = ∂D/∂g', in one sweep over memory; arguments as of `distance`.

    ``out`` are tensors like ``dummy`` that V is written to, in place of fresh ones; their versions are
    the caller's to raise.
    """
    if out is None:
        return _operators(backend).distance_and_gradient.default(
            dummy, target, layering.layer_of, layering.layers, batched, *options, cached
        )
    value, sums = _operators(backend).distance_and_gradient_out.default(
        dummy, target, layering.layer_of, layering.layers, batched, *options, cached, out
    )
    return value, sums, out


@_fake("distance_and_gradient")
def _fake_distance_and_gradient(dummy, target, layer_of, layers, batched, *options):
    return (
        *_fake_distance(dummy, target, layer_of, layers, batched, *options),
        _fake_apply(dummy, target, layer_of, layers, batched, None),
    )


@_fake("distance_and_gradient_out")
def _fake_distance_and_gradient_out(dummy, target, layer_of, layers, batched, *options_and_out):
    return _fake_distance(dummy, target, layer_of, layers, batched, *options_and_out[:-1])


def scale(backend: str, slopes: Sequence[Tensor], grad: Tensor, batched: bool) -> None:
    """V times ``grad`` (shape ``()`` or ``[R]``) in place, without a pass over V where it is 1."""
    _operators(backend).scale_.default(slopes, grad, batched)


@_fake("scale_")
def _fake_scale(slopes, grad, batched):
    return None
