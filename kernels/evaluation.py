"""D and V of one call: which launches, in which order.

With the target's sums at hand:

* only fused layers: one launch for each tile in use, and one that adds up the shares of D; two for a LeNet;
* chunked layers: sums, merge, finalise, apply; fused layers add one launch a tile.

Without the target's sums: a shared target of several recoveries is summed first (two launches), else chunked
layers take theirs in the sweep that reads g' and g, and fused layers take two launches more, since whether a
layer carries weight depends on the whole target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import kinds
from .addresses import AddressTable
from .finalise import finalise
from .frames import Frame
from .fused import fused
from .launches import apply_chunks, doubles, number_of, on, sum_chunks, tile_options

LAYER_BLOCK = 64  # layers that the coefficients' kernel has in hand at a time


class Options(NamedTuple):
    """An operator's options, in the order of its schema."""

    kind: int
    bandwidth: float
    l1_weight: float
    layer_weights: Tensor | None
    variance: Tensor | None
    target_sums: Tensor | None


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """One call: its gradients, its options and the memory that its launches hand to each other."""

    frame: Frame
    table: AddressTable
    known: Tensor  # the target's sums [R or 1, L, 3]
    shares: Tensor  # of D [R, L]
    sums: Tensor  # [R, L, 6] where there are chunked layers
    coefficients: Tensor  # [R, L, 5] where there are chunked layers and V is asked for
    rows: tuple[Tensor, Tensor]  # weights and variance, or anything where they are not given
    numbers: tuple[Any, ...]
    constants: dict[str, Any]
    extra: bool

    @property
    def chunked(self) -> bool:
        """Whether any layer goes through chunks."""
        return bool(self.frame.plan.large.groups.shape[0])

    def sum_target(self) -> None:
        """The target's sums that the sweep for the differences does not bring along."""
        frame = self.frame
        chunks = frame.plan.small if self.sums_in_sweep else frame.plan.every
        sum_chunks(frame, self.table, chunks, frame.target_recoveries, None, self.known, extra=False)

    @property
    def sums_in_sweep(self) -> bool:
        """Whether chunked layers' target sums can come in the sweep that reads g' and g."""
        return self.frame.target_recoveries == self.frame.recoveries

    def sum_differences(self, *, with_target: bool) -> None:
        """The sums of the chunked layers."""
        frame = self.frame
        known = self.known if with_target else None
        sum_chunks(frame, self.table, frame.plan.large, frame.recoveries, self.sums, known, extra=self.extra)

    def run_fused(self) -> None:
        """Shares of D, and V, of the fused layers."""
        frame = self.frame
        for tile, segments in frame.plan.fused:
            fused[(frame.recoveries * segments.shape[0],)](
                self.table.addresses,
                frame.strides,
                segments,
                self.known,
                *self.rows,
                self.shares,
                segments.shape[0],
                *self.numbers,
                **self.constants,
                **{"EXTRA": self.extra, "NUMBER": number_of(frame), **tile_options(frame, tile)},
            )

    def finalise(self, value: Tensor) -> None:
        """D from all shares, and the coefficients of the chunked layers."""
        frame = self.frame
        own: dict[str, Any] = {
            "CHUNKED": self.chunked,
            "VALUE": number_of(frame),
            "num_warps": LAYER_BLOCK // 32,
        }
        finalise[(frame.recoveries,)](
            frame.plan.sizes,
            frame.plan.chunked,
            self.sums,
            self.known,
            *self.rows,
            self.shares,
            self.coefficients,
            value,
            *self.numbers,
            **self.constants,
            **own,
        )


def evaluate(
    frame: Frame,
    dummy: Sequence[Tensor],
    target: Sequence[Tensor],
    out: Sequence[Tensor] | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """D and the target's sums; V is written to ``out`` if given.

    Parameters
    ----------
    frame : Frame
        That of both lists.
    dummy, target : sequence of Tensor
        ``[R, ...]`` and ``[R or 1, ...]``, without the first dimension where the frame is not batched.
    out : sequence of Tensor or None
        Like ``dummy``, see `sapag_fast.kernels.frames.check_outputs`.
    options : Options
        Those of the operator.

    Returns
    -------
    tuple of Tensor
        D, shape ``()`` or ``[R]``, and the target's sums ``[R or 1, L, 3]``, empty if the options hold them.

    Raises
    ------
    ValueError
        For options that do not fit the frame.
    """
    if not 0 <= options.kind < kinds.KINDS:
        raise ValueError(f"kind: unknown number {options.kind}")
    cached = options.target_sums
    if cached is not None:
        _check_target_sums(cached, frame)
    with on(frame.device):
        shape = (frame.recoveries,) if frame.batched else ()
        value = torch.empty(shape, dtype=frame.number, device=frame.device)
        call = _prepared(frame, AddressTable(frame, dummy, target, out), options, gradient=out is not None)
        if cached is None:
            call.sum_target()
        if call.chunked:
            call.sum_differences(with_target=cached is None and call.sums_in_sweep)
        if frame.recoveries:
            call.run_fused()
            call.finalise(value)
        if out is not None:
            apply_chunks(frame, call.table, frame.plan.large, call.coefficients, sign=call.extra)
        return value, (call.known if cached is None else doubles(frame, 0, frame.layers, 3))


def _check_target_sums(cached: Tensor, frame: Frame) -> None:
    shape = (frame.target_recoveries, frame.layers, 3)
    if cached.shape != shape or cached.dtype != torch.float64 or not cached.is_contiguous():
        raise ValueError(
            f"target_sums: expected contiguous float64 of shape {list(shape)}, found {list(cached.shape)}"
        )


def _prepared(frame: Frame, table: AddressTable, options: Options, *, gradient: bool) -> _Evaluation:
    weights, weights_stride = _rows("layer_weights", options.layer_weights, frame)
    variance, variance_stride = _rows("variance", options.variance, frame)
    R, layers = frame.recoveries, frame.layers
    shares = doubles(frame, R, layers)
    chunked = bool(frame.plan.large.groups.shape[0])
    known = options.target_sums
    if known is None:
        known = doubles(frame, frame.target_recoveries, layers, 3)
    return _Evaluation(
        frame=frame,
        table=table,
        known=known,
        shares=shares,
        sums=doubles(frame, R, layers, 6) if chunked else shares,
        coefficients=doubles(frame, R, layers, 5) if chunked and gradient else shares,
        rows=(known if weights is None else weights, known if variance is None else variance),
        numbers=(
            layers,
            0 if frame.target_recoveries == 1 else layers * 3,
            weights_stride,
            variance_stride,
            float(options.bandwidth),
            float(options.l1_weight),
        ),
        constants={
            "KIND": options.kind,
            "GRADIENT": gradient,
            "WEIGHTS": weights is not None,
            "VARIANCE": variance is not None,
            "LAYER_BLOCK": LAYER_BLOCK,
        },
        extra=kinds.needs_extra(options.kind),
    )


def _rows(name: str, given: Tensor | None, frame: Frame) -> tuple[Tensor | None, int]:
    """``[L]`` or ``[R or 1, L]`` as contiguous float64, and the elements between its rows."""
    if given is None:
        return None, 0
    rows = given.dim() == 2 and given.shape[0] in (1, frame.recoveries)
    if not (given.dim() == 1 or rows) or given.shape[-1] != frame.layers:
        raise ValueError(
            f"{name}: expected shape [{frame.layers}] or [{frame.recoveries}, {frame.layers}], found "
            f"{list(given.shape)}"
        )
    values = given.to(frame.device, torch.float64).contiguous()
    return values, frame.layers if rows and given.shape[0] > 1 else 0
