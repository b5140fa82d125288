"""Launches that several operators share: sums over chunks, V from coefficients."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from .addresses import AddressTable
from .apply import apply
from .checks import DTYPES
from .frames import Frame
from .plans import Chunks, Tile
from .sums import chunk_sums, merge_sums

MERGE_LANES = 128  # partial sums that a merge takes in one step


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Make ``device`` the current one, where it is a GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def doubles(frame: Frame, *shape: int) -> Tensor:
    """Fresh float64 memory on the frame's device."""
    return torch.empty(shape, dtype=torch.float64, device=frame.device)


def tile_options(frame: Frame, tile: Tile) -> dict[str, Any]:
    """The constants of a kernel that walks gradients in this tile, and the compiler's options for it."""
    return {
        "DTYPE": DTYPES[frame.dtype],
        "BYTES": frame.dtype.itemsize,
        "ROWS": tile.rows,
        "LANES": tile.lanes,
        "VEC": frame.limits.vec,
        **tile.launch,
    }


def number_of(frame: Frame) -> tl.dtype:
    """`Frame.number` as Triton calls it."""
    return tl.float64 if frame.number == torch.float64 else tl.float32


def sum_chunks(
    frame: Frame,
    table: AddressTable,
    chunks: Chunks,
    recoveries: int,
    difference_sums: Tensor | None,
    target_sums: Tensor | None,
    *,
    extra: bool,
) -> None:
    """Fill the rows of both tables that the chunks make up.

    ``difference_sums`` is float64 ``[R, L, 6]``, ``target_sums`` ``[R, L, 3]``; ``extra`` asks for Σ d and
    Σ|d| too.
    """
    groups = chunks.groups.shape[0]
    if not groups or not recoveries:
        return
    wanted: dict[str, Any] = {"DIFFERENCE": difference_sums is not None, "MOMENTS": target_sums is not None}
    difference = doubles(frame, recoveries, chunks.count, 6) if wanted["DIFFERENCE"] else frame.strides
    moments = doubles(frame, recoveries, chunks.count, 3) if wanted["MOMENTS"] else frame.strides
    if chunks.count:
        chunk_sums[(recoveries * chunks.count,)](
            table.addresses,
            frame.strides,
            chunks.chunks,
            difference,
            moments,
            chunks.count,
            **wanted,
            **{"EXTRA": extra, **tile_options(frame, frame.limits.chunk)},
        )
    merge: dict[str, Any] = {"LANES": MERGE_LANES, "num_warps": MERGE_LANES // 32}
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
        **merge,
    )


def apply_chunks(
    frame: Frame, table: AddressTable, chunks: Chunks, coefficients: Tensor, *, sign: bool
) -> None:
    """Write V of the chunks from coefficients, float64 ``[R, L, 5]``; ``sign`` where γ or δ are not 0."""
    if not chunks.count or not frame.recoveries:
        return
    apply[(frame.recoveries * chunks.count,)](
        table.addresses,
        frame.strides,
        chunks.chunks,
        coefficients,
        chunks.count,
        frame.layers,
        **{"SIGN": sign, "NUMBER": number_of(frame), **tile_options(frame, frame.limits.chunk)},
    )
