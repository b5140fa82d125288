"""The seven operators of distances.operators on Triton kernels, as ``torch.ops.sapag_fast_triton.*``.

Same schemas and errors as csrc/bindings.cpp, same fakes. Nothing here waits for the device. What a call
launches is told in evaluation.py; `scale_` is one launch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sapag_fast.distances.operators import FAKES

from .addresses import AddressTable
from .evaluation import Options, evaluate
from .frames import as_they_lie, check_outputs, find_frame, make_outputs
from .launches import apply_chunks, doubles, number_of, on, sum_chunks, tile_options
from .scale import scale

FACTOR_BLOCK = 256  # factors that a program of scale_ looks at in one step
SCALE_PROGRAMS = 512  # of scale_: enough to fill a large GPU, and few to start where there is nothing to do

Tensors = Sequence[Tensor]


def target_sums(target: Tensors, layer_of: Sequence[int], layers: int, batched: bool) -> Tensor:
    """Σ g, Σ g², Σ (g - mean)² of each layer: float64 ``[R or 1, L, 3]``."""
    frame = find_frame(None, target, layer_of, layers, batched)
    with on(frame.device):
        sums = doubles(frame, frame.target_recoveries, layers, 3)
        table = AddressTable(frame, None, target)
        sum_chunks(frame, table, frame.plan.every, frame.target_recoveries, None, sums, extra=False)
    return sums


def difference_sums(
    dummy: Tensors, target: Tensors, layer_of: Sequence[int], layers: int, batched: bool
) -> Tensor:
    """Σ d, Σ d², Σ d·g, Σ g'², Σ g'·g, Σ|d| of each segment: float64 ``[R, L, 6]``."""
    frame = find_frame(dummy, target, layer_of, layers, batched)
    with on(frame.device):
        sums = doubles(frame, frame.recoveries, layers, 6)
        table = AddressTable(frame, dummy, target)
        sum_chunks(frame, table, frame.plan.every, frame.recoveries, sums, None, extra=True)
    return sums


def apply(
    dummy: Tensors,
    target: Tensors,
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    coefficients: Tensor,
) -> list[Tensor]:
    """V = α·d + β·g + ε·g' + γ + δ·sign(d), shaped like ``dummy``; coefficients float64 ``[R, L, 5]``."""
    frame = find_frame(dummy, target, layer_of, layers, batched)
    shape = [frame.recoveries, layers, 5]
    if list(coefficients.shape) != shape:
        raise ValueError(f"coefficients: expected shape {shape}, found {list(coefficients.shape)}")
    with on(frame.device):
        out = make_outputs(frame, dummy)
        plain = coefficients.to(frame.device, torch.float64).contiguous()
        apply_chunks(frame, AddressTable(frame, dummy, target, out), frame.plan.every, plain, sign=True)
    return out


def distance(
    dummy: Tensors,
    target: Tensors,
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """D, shape ``()`` or ``[R]``, and the target's sums, empty if given; the options are `Options`."""
    frame = find_frame(dummy, target, layer_of, layers, batched)
    return evaluate(frame, dummy, target, None, Options(*options))


def distance_and_gradient(
    dummy: Tensors,
    target: Tensors,
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """D, the target's sums, empty if given, and V shaped like ``dummy``; the options are `Options`."""
    frame = find_frame(dummy, target, layer_of, layers, batched)
    out = make_outputs(frame, dummy)
    return *evaluate(frame, dummy, target, out, Options(*options)), out


def distance_and_gradient_out(
    dummy: Tensors,
    target: Tensors,
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    *options_and_out: Any,
) -> tuple[Tensor, Tensor]:
    """D and the target's sums, empty if given; V is written to the last argument, after `Options`."""
    frame = find_frame(dummy, target, layer_of, layers, batched)
    *options, out = options_and_out
    check_outputs(frame, dummy, out)
    return evaluate(frame, dummy, target, out, Options(*options))


def scale_(slopes: Tensors, grad: Tensor, batched: bool) -> None:
    """Multiply ``slopes`` in place by ``grad``: float32 or float64 on their device, of shape () or [R]."""
    flat = as_they_lie("slopes", slopes, batched)
    frame = find_frame(None, flat, range(len(flat)), len(flat), batched, name="slopes")
    R = frame.target_recoveries
    if grad.shape not in ((), (R,)) or (grad.dim() and not batched):
        raise ValueError(
            f"grad: expected shape []{f' or [{R}]' if batched else ''}, found {list(grad.shape)}"
        )
    if grad.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"grad: expected float32 or float64, found {grad.dtype}")
    if grad.device != frame.device:
        raise ValueError(f"grad: expected a tensor on {frame.device}, found {grad.device}")
    chunks = frame.plan.every
    if not (items := R * chunks.count):
        return
    constants = {"NUMBER": number_of(frame), "FACTOR_BLOCK": FACTOR_BLOCK}
    constants |= tile_options(frame, frame.limits.chunk)
    with on(frame.device):
        scale[(min(items, SCALE_PROGRAMS),)](
            AddressTable(frame, None, flat).addresses,
            frame.strides,
            chunks.chunks,
            grad,
            items,
            chunks.count,
            grad.numel(),
            grad.stride(0) if grad.dim() else 0,
            **constants,
        )


PAIR = "(Tensor[] dummy, Tensor[] target, int[] layer_of, int layers, bool batched"
OPTIONS = (
    ", int kind, float bandwidth, float l1_weight, Tensor? layer_weights, Tensor? variance, "
    "Tensor? target_sums"
)
SCHEMAS = {
    target_sums: "(Tensor[] target, int[] layer_of, int layers, bool batched) -> Tensor",
    difference_sums: f"{PAIR}) -> Tensor",
    apply: f"{PAIR}, Tensor coefficients) -> Tensor[]",
    distance: f"{PAIR}{OPTIONS}) -> (Tensor, Tensor)",
    distance_and_gradient: f"{PAIR}{OPTIONS}) -> (Tensor, Tensor, Tensor[])",
    distance_and_gradient_out: f"{PAIR}{OPTIONS}, Tensor(a!)[] out) -> (Tensor, Tensor)",
    scale_: "(Tensor(a!)[] slopes, Tensor grad, bool batched) -> ()",
}

_library = torch.library.Library("sapag_fast_triton", "DEF")
for _operator, _schema in SCHEMAS.items():
    _name = _operator.__name__
    _library.define(_name + _schema)
    for _key in ("CUDA", "CPU"):
        _library.impl(_name, _operator, _key)
    torch.library.register_fake(f"sapag_fast_triton::{_name}", FAKES[_name], lib=_library)
