"""The seven operators of distances.operators on Triton kernels, as ``torch.ops.sapag_fast_triton.*``.

Launches, for one call with the target's sums at hand:

* only fused layers: one for each tile in use, and one that adds up the shares of D; two for a LeNet;
* chunked layers: sums, merge, finalise, apply; fused layers add one launch a tile.

Without the target's sums: a shared target of several recoveries is summed first (two launches), else chunked
layers take theirs in the sweep that reads g' and g, and fused layers take two launches more, since whether a
layer carries weight depends on the whole target.

:func:`scale_` is one launch. Nothing here waits for the device. Same schemas and errors as csrc/bindings.cpp.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from sapag_fast.distances import operators as ops
from sapag_fast.kernels import kinds
from sapag_fast.kernels.apply import apply as apply_kernel
from sapag_fast.kernels.finalise import finalise
from sapag_fast.kernels.fused import fused
from sapag_fast.kernels.plans import Chunks, Tile
from sapag_fast.kernels.scale import scale as scale_kernel
from sapag_fast.kernels.sums import chunk_sums, merge_sums
from sapag_fast.kernels.tables import (
    DTYPES,
    Frame,
    Placed,
    as_they_lie,
    check_outputs,
    find_frame,
    make_outputs,
)

LAYER_BLOCK = 64  # layers that the coefficients' kernel has in hand at a time
MERGE_LANES = 128  # partial sums that a merge takes in one step
FACTOR_BLOCK = 256  # factors that a program of scale_ looks at in one step
SCALE_PROGRAMS = 512  # of scale_: enough to fill a large GPU, and few to start where there is nothing to do

Tensors = Sequence[Tensor]


def _on(device: torch.device):
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _double(frame: Frame, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device=frame.device)


def _tile_options(frame: Frame, tile: Tile) -> dict:
    return {
        "DTYPE": DTYPES[frame.dtype],
        "BYTES": frame.dtype.itemsize,
        "ROWS": tile.rows,
        "LANES": tile.lanes,
        "VEC": frame.limits.vec,
        **tile.launch,
    }


def _number(frame: Frame) -> tl.dtype:
    """What V is computed in."""
    return tl.float64 if frame.dtype == torch.float64 else tl.float32


def _sum_chunks(
    frame: Frame,
    placed: Placed,
    chunks: Chunks,
    recoveries: int,
    difference_sums: Tensor | None,
    target_sums: Tensor | None,
    *,
    extra: bool,
) -> None:
    """Fill the rows of difference_sums [R, L, 6] and target_sums [R, L, 3] that the chunks make up."""
    groups = chunks.groups.shape[0]
    if not groups or not recoveries:
        return
    wanted = {"DIFFERENCE": difference_sums is not None, "MOMENTS": target_sums is not None}
    difference = _double(frame, recoveries, chunks.count, 6) if wanted["DIFFERENCE"] else frame.strides
    moments = _double(frame, recoveries, chunks.count, 3) if wanted["MOMENTS"] else frame.strides
    if chunks.count:
        chunk_sums[(recoveries * chunks.count,)](
            placed.addresses,
            frame.strides,
            chunks.chunks,
            difference,
            moments,
            chunks.count,
            **wanted,
            EXTRA=extra,
            **_tile_options(frame, frame.limits.chunk),
        )
    merge_sums[(recoveries * groups,)](
        chunks.chunks,
        chunks.groups,
        difference,
        moments,
        frame.strides if difference_sums is None else difference_sums,
        frame.strides if target_sums is None else target_sums,
        chunks.count,
        groups,
        frame.layers,
        **wanted,
        LANES=MERGE_LANES,
        num_warps=MERGE_LANES // 32,
    )


def _apply_chunks(frame: Frame, placed: Placed, chunks: Chunks, coefficients: Tensor, *, sign: bool) -> None:
    if not chunks.count or not frame.recoveries:
        return
    apply_kernel[(frame.recoveries * chunks.count,)](
        placed.addresses,
        frame.strides,
        chunks.chunks,
        coefficients,
        chunks.count,
        frame.layers,
        SIGN=sign,
        NUMBER=_number(frame),
        **_tile_options(frame, frame.limits.chunk),
    )


@dataclass(frozen=True)
class _Option:
    """[L] or [R or 1, L] float64, and the elements between its rows."""

    values: Tensor | None
    stride: int

    @classmethod
    def of(cls, name: str, given: Tensor | None, frame: Frame) -> "_Option":
        if given is None:
            return cls(None, 0)
        rows = given.dim() == 2 and given.shape[0] in (1, frame.recoveries)
        if not (given.dim() == 1 or rows) or given.shape[-1] != frame.layers:
            raise ValueError(
                f"{name}: expected shape [{frame.layers}] or [{frame.recoveries}, {frame.layers}], found "
                f"{list(given.shape)}"
            )
        values = given.to(frame.device, torch.float64).contiguous()
        return cls(values, frame.layers if rows and given.shape[0] > 1 else 0)


def target_sums(target: Tensors, layer_of: Sequence[int], layers: int, batched: bool) -> Tensor:
    """Σ g, Σ g², Σ (g - mean)² a layer: float64 [R or 1, L, 3]."""
    frame = find_frame(None, target, layer_of, layers, batched)
    with _on(frame.device):
        sums = _double(frame, frame.target_recoveries, layers, 3)
        placed = Placed(frame, None, target)
        _sum_chunks(frame, placed, frame.plan.every, frame.target_recoveries, None, sums, extra=False)
    return sums


def difference_sums(
    dummy: Tensors, target: Tensors, layer_of: Sequence[int], layers: int, batched: bool
) -> Tensor:
    """Σ d, Σ d², Σ d·g, Σ g'², Σ g'·g, Σ|d| a segment: float64 [R, L, 6]."""
    frame = find_frame(dummy, target, layer_of, layers, batched)
    with _on(frame.device):
        sums = _double(frame, frame.recoveries, layers, 6)
        placed = Placed(frame, dummy, target)
        _sum_chunks(frame, placed, frame.plan.every, frame.recoveries, sums, None, extra=True)
    return sums


def apply(
    dummy: Tensors,
    target: Tensors,
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    coefficients: Tensor,
) -> list[Tensor]:
    """V = α·d + β·g + ε·g' + γ + δ·sign(d), shaped like ``dummy``; coefficients float64 [R, L, 5]."""
    frame = find_frame(dummy, target, layer_of, layers, batched)
    shape = [frame.recoveries, layers, 5]
    if list(coefficients.shape) != shape:
        raise ValueError(f"coefficients: expected shape {shape}, found {list(coefficients.shape)}")
    with _on(frame.device):
        out = make_outputs(frame, dummy)
        plain = coefficients.to(frame.device, torch.float64).contiguous()
        _apply_chunks(frame, Placed(frame, dummy, target, out), frame.plan.every, plain, sign=True)
    return out


def _run(
    frame: Frame,
    dummy: Tensors,
    target: Tensors,
    out: Tensors | None,
    batched: bool,
    kind: int,
    bandwidth: float,
    l1_weight: float,
    layer_weights: Tensor | None,
    variance: Tensor | None,
    cached: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if not 0 <= kind < kinds.KINDS:
        raise ValueError(f"kind: unknown number {kind}")
    weights = _Option.of("layer_weights", layer_weights, frame)
    spread = _Option.of("variance", variance, frame)
    R, rows, layers, plan = frame.recoveries, frame.target_recoveries, frame.layers, frame.plan
    fits = cached is None or (
        cached.shape == (rows, layers, 3) and cached.dtype == torch.float64 and cached.is_contiguous()
    )
    if not fits:
        raise ValueError(
            f"target_sums: expected contiguous float64 of shape {[rows, layers, 3]}, found "
            f"{list(cached.shape)}"
        )
    number = ops.result_dtype(dummy)
    extra, with_gradient = kinds.needs_extra(kind), out is not None
    with _on(frame.device):
        value = torch.empty((R,) if batched else (), dtype=number, device=frame.device)
        placed = Placed(frame, dummy, target, out)
        shares = _double(frame, R, layers)
        chunked = bool(plan.large.groups.shape[0])
        sums = _double(frame, R, layers, 6) if chunked else shares
        coefficients = _double(frame, R, layers, 5) if chunked and with_gradient else shares
        known = _double(frame, rows, layers, 3) if cached is None else cached
        sweep = cached is None and rows == R
        if cached is None:
            first = plan.small if sweep else plan.every
            _sum_chunks(frame, placed, first, rows, None, known, extra=False)
        if chunked:
            _sum_chunks(frame, placed, plan.large, R, sums, known if sweep else None, extra=extra)
        options = {
            "KIND": kind,
            "GRADIENT": with_gradient,
            "WEIGHTS": weights.values is not None,
            "VARIANCE": spread.values is not None,
            "LAYER_BLOCK": LAYER_BLOCK,
        }
        tables = (
            known,
            known if weights.values is None else weights.values,
            known if spread.values is None else spread.values,
        )
        numbers = (
            layers,
            0 if rows == 1 else layers * 3,
            weights.stride,
            spread.stride,
            float(bandwidth),
            float(l1_weight),
        )
        for tile, segments in plan.fused if R else ():
            fused[(R * segments.shape[0],)](
                placed.addresses,
                frame.strides,
                segments,
                *tables,
                shares,
                segments.shape[0],
                *numbers,
                EXTRA=extra,
                NUMBER=_number(frame),
                **options,
                **_tile_options(frame, tile),
            )
        if R:
            finalise[(R,)](
                plan.sizes,
                plan.chunked,
                sums,
                *tables,
                shares,
                coefficients,
                value,
                *numbers,
                CHUNKED=chunked,
                VALUE=tl.float64 if number == torch.float64 else tl.float32,
                **options,
                num_warps=LAYER_BLOCK // 32,
            )
        if with_gradient:
            _apply_chunks(frame, placed, plan.large, coefficients, sign=extra)
    return value, (known if cached is None else _double(frame, 0, layers, 3))


def distance(
    dummy: Tensors,
    target: Tensors,
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """D (shape () or [R]) and the target's sums (empty if given); options are those of the schema, as
    :func:`_run` takes them."""
    frame = find_frame(dummy, target, layer_of, layers, batched)
    return _run(frame, dummy, target, None, batched, *options)


def distance_and_gradient(
    dummy: Tensors,
    target: Tensors,
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """D, the target's sums (empty if given) and V shaped like ``dummy``."""
    frame = find_frame(dummy, target, layer_of, layers, batched)
    out = make_outputs(frame, dummy)
    return *_run(frame, dummy, target, out, batched, *options), out


def distance_and_gradient_out(
    dummy: Tensors,
    target: Tensors,
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    *arguments: Any,
) -> tuple[Tensor, Tensor]:
    """D and the target's sums (empty if given); V is written to the last argument."""
    frame = find_frame(dummy, target, layer_of, layers, batched)
    *options, out = arguments
    check_outputs(frame, dummy, out)
    return _run(frame, dummy, target, out, batched, *options)


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
    with _on(frame.device):
        scale_kernel[(min(items, SCALE_PROGRAMS),)](
            Placed(frame, None, flat).addresses,
            frame.strides,
            chunks.chunks,
            grad,
            items,
            chunks.count,
            grad.numel(),
            grad.stride(0) if grad.dim() else 0,
            NUMBER=_number(frame),
            FACTOR_BLOCK=FACTOR_BLOCK,
            **_tile_options(frame, frame.limits.chunk),
        )


PAIR = "(Tensor[] dummy, Tensor[] target, int[] layer_of, int layers, bool batched"
OPTIONS = (
    ", int kind, float bandwidth, float l1_weight, Tensor? layer_weights, Tensor? variance, "
    "Tensor? target_sums"
)
SCHEMAS = {
    "target_sums": "(Tensor[] target, int[] layer_of, int layers, bool batched) -> Tensor",
    "difference_sums": f"{PAIR}) -> Tensor",
    "apply": f"{PAIR}, Tensor coefficients) -> Tensor[]",
    "distance": f"{PAIR}{OPTIONS}) -> (Tensor, Tensor)",
    "distance_and_gradient": f"{PAIR}{OPTIONS}) -> (Tensor, Tensor, Tensor[])",
    "distance_and_gradient_out": f"{PAIR}{OPTIONS}, Tensor(a!)[] out) -> (Tensor, Tensor)",
    "scale_": "(Tensor(a!)[] slopes, Tensor grad, bool batched) -> ()",
}
FAKES = {
    "target_sums": ops._fake_target_sums,
    "difference_sums": ops._fake_difference_sums,
    "apply": ops._fake_apply,
    "distance": ops._fake_distance,
    "distance_and_gradient": ops._fake_distance_and_gradient,
    "distance_and_gradient_out": ops._fake_distance_and_gradient_out,
    "scale_": ops._fake_scale,
}

_library = torch.library.Library("sapag_fast_triton", "DEF")
for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema)
    for _key in ("CUDA", "CPU"):
        _library.impl(_name, globals()[_name], _key)
    torch.library.register_fake(f"sapag_fast_triton::{_name}", FAKES[_name], lib=_library)
