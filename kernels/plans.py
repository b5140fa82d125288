"""Which way each layer goes, decided on the host from sizes alone.

A layer of one tensor, or of a tensor and a short one (its bias), that fits in a program's registers is
*fused*: one program a segment reads each input once. All other layers are *chunked*: partial sums, a merge,
coefficients, V. Fused segments go by tile, one launch each; a few small ones join the larger tile, where a
program skips the rows it does not need, rather than cost a launch of their own. Neither the number of
recoveries nor an address plays a part, so a recovery has the same bits alone and among others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """What a program holds at a time: rows × lanes elements, by ``warps`` warps.

    ``registers`` is the most a thread may take, said where the compiler would rather spill a few to have room
    for a second program.
    """

    rows: int
    lanes: int
    warps: int
    registers: int | None = None

    @property
    def elements(self) -> int:
        """Of a whole tile."""
        return self.rows * self.lanes

    @property
    def launch(self) -> dict[str, int]:
        """The compiler's options that come with it."""
        limit = {} if self.registers is None else {"maxnreg": self.registers}
        return {"num_warps": self.warps, **limit}


@dataclass(frozen=True)
class Limits:
    """The tiles of one dtype.

    Attributes
    ----------
    fused : tuple of Tile
        Of the one-program kernel, small to large; a segment takes the first that holds it, or a larger one,
        see `_join_few`.
    chunk : Tile
        Of the chunk kernels, which walk ``tiles_a_chunk`` of them.
    tiles_a_chunk : int
        How many make a chunk.
    vec : int
        Elements in 16 bytes.
    """

    fused: tuple[Tile, ...]
    chunk: Tile
    tiles_a_chunk: int
    vec: int


@lru_cache(maxsize=8)
def limits_for(itemsize: int) -> Limits:
    """The tiles for elements of that many bytes.

    The large fused tile has 16 elements of g' and of g in each thread's registers (8 in float64, which takes
    twice the room), the others have 8.
    """
    vec = 16 // itemsize

    def tile(elements_a_thread: int, warps: int, registers: int | None = None) -> Tile:
        return Tile(elements_a_thread // vec, 32 * vec * warps, warps, registers)

    large = tile(16 if itemsize < 8 else 8, 16, registers=128)
    return Limits(fused=(tile(8, 8), large), chunk=tile(8, 8), tiles_a_chunk=8, vec=vec)


@dataclass(frozen=True, eq=False)
class Chunks:
    """Rows of the tables that kernels/sums.py describes, int64: chunks [C, 4], groups [G, 4]."""

    chunks: Tensor
    groups: Tensor

    @property
    def count(self) -> int:
        """C, how many chunks there are."""
        return self.chunks.shape[0]


@dataclass(frozen=True, eq=False)
class Plan:
    """Which way each layer goes.

    Attributes
    ----------
    fused : tuple of (Tile, Tensor)
        For every tile in use its segments, int64 ``[S, 5]``.
    large, small, every : Chunks
        Of the layers that are not fused, of those that are, of all.
    sizes, chunked : Tensor
        int64 ``[L]``: elements; 1 where a layer is not fused.
    """

    fused: tuple[tuple[Tile, Tensor], ...]
    large: Chunks
    small: Chunks
    every: Chunks
    sizes: Tensor
    chunked: Tensor


def _chunks(members: list[list[int]], sizes: Sequence[int], layers: list[int], length: int) -> Chunks:
    chunks, groups = [], []
    for layer in layers:
        first = len(chunks)
        for tensor in members[layer]:
            for start in range(0, sizes[tensor], length):
                chunks.append((layer, tensor, start, min(length, sizes[tensor] - start)))
        groups.append((layer, first, len(chunks), sum(sizes[tensor] for tensor in members[layer])))
    return Chunks(
        torch.tensor(chunks, dtype=torch.int64).reshape(-1, 4),
        torch.tensor(groups, dtype=torch.int64).reshape(-1, 4),
    )


def _runs(members: list[int], sizes: Sequence[int]) -> list[int]:
    """The tensors of a layer as a long and a short run; empty where there are none, or more than two."""
    present = sorted((tensor for tensor in members if sizes[tensor]), key=lambda tensor: -sizes[tensor])
    return present if len(present) <= 2 else []


def _join_few(segments: dict[Tile, list[tuple[int, ...]]]) -> None:
    """Move the segments of a tile to the next larger one where that has as many or more of its own.

    There, a launch less is worth more than threads without work.
    """
    for small, large in pairwise(segments):
        if len(segments[small]) <= len(segments[large]):
            segments[large] = sorted(segments[large] + segments[small])
            segments[small] = []


def make_plan(sizes: Sequence[int], layer_of: Sequence[int], layers: int, limits: Limits) -> Plan:
    """The plan, on the CPU, for tensors of so many elements (of one recovery)."""
    members: list[list[int]] = [[] for _ in range(layers)]
    for tensor, layer in enumerate(layer_of):
        members[layer].append(tensor)
    segments: dict[Tile, list[tuple[int, ...]]] = {tile: [] for tile in limits.fused}
    small, large = [], []
    for layer in range(layers):
        runs = _runs(members[layer], sizes)
        lengths = [*(sizes[tensor] for tensor in runs), 0][:2]
        fitting = (t for t in limits.fused if runs and lengths[0] <= t.elements and lengths[1] <= t.lanes)
        tile = next(fitting, None)
        if tile is None:
            large.append(layer)
            continue
        small.append(layer)
        segments[tile].append((layer, runs[0], lengths[0], runs[-1], lengths[1]))
    _join_few(segments)
    length = limits.chunk.elements * limits.tiles_a_chunk
    totals = [sum(sizes[tensor] for tensor in tensors) for tensors in members]
    return Plan(
        fused=tuple((tile, torch.tensor(rows, dtype=torch.int64)) for tile, rows in segments.items() if rows),
        large=_chunks(members, sizes, large, length),
        small=_chunks(members, sizes, small, length),
        every=_chunks(members, sizes, list(range(layers)), length),
        sizes=torch.tensor(totals, dtype=torch.int64),
        chunked=torch.tensor([int(layer in set(large)) for layer in range(layers)], dtype=torch.int64),
    )


def to_device(plan: Plan, device: torch.device) -> Plan:
    """The plan's tables on ``device``; waits for the copies, so that any stream may read them."""

    def chunks(given: Chunks) -> Chunks:
        return Chunks(given.chunks.to(device), given.groups.to(device))

    return Plan(
        fused=tuple((tile, segments.to(device)) for tile, segments in plan.fused),
        large=chunks(plan.large),
        small=chunks(plan.small),
        every=chunks(plan.every),
        sizes=plan.sizes.to(device),
        chunked=plan.chunked.to(device),
    )
