"""What the machine can do at best, measured: bytes and operations a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sapag_fast.profiler.work import CACHED, Work

__all__ = ["Bound", "Ceilings", "bound", "measure_ceilings", "synchronise"]

_MEMORY_ELEMENTS = {"cpu": 2**23, "cuda": 2**27}
_GEMM_SIDE = {"cpu": 512, "cuda": 8192}
_SECONDS = 0.4


@dataclass(frozen=True)
class Ceilings:
    """What a machine does at best, in the model's dtype and with the present number of threads.

    Attributes
    ----------
    memory_bandwidth, cache_bandwidth : float
        Bytes a second of ``x = y + 2 z``, from memory and from cache.
    flop_rate : float
        FLOP/s of a square matrix product.
    """

    memory_bandwidth: float
    cache_bandwidth: float
    flop_rate: float


@dataclass(frozen=True)
class Bound:
    """The least time that work can take on a machine, and by what: ``compute`` or ``memory``."""

    seconds: float
    by: str


def bound(work: Work, ceilings: Ceilings) -> Bound:
    """Of operations and bytes whichever takes longer."""
    compute = work.flops / ceilings.flop_rate
    moving = work.memory_bytes / ceilings.memory_bandwidth + work.cache_bytes / ceilings.cache_bandwidth
    return Bound(compute, "compute") if compute > moving else Bound(moving, "memory")


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, seed: int = 0) -> Ceilings:
    """About a second of measuring; the best of several repeats each."""
    kind = device.type
    memory = _triad(_MEMORY_ELEMENTS.get(kind, 2**23), device, dtype, seed)
    cached = CACHED.get(kind)
    cache = memory
    if cached is not None:
        cache = max(memory, _triad(cached // (4 * dtype.itemsize), device, dtype, seed))
    return Ceilings(memory, cache, _product(_GEMM_SIDE.get(kind, 512), device, dtype, seed))


def _triad(elements: int, device: torch.device, dtype: torch.dtype, seed: int) -> float:
    y, z = _random((2, elements), device, dtype, seed)
    x = torch.empty_like(y)
    return 3 * x.nbytes / _best(lambda: torch.add(y, z, alpha=2, out=x), device)


def _product(side: int, device: torch.device, dtype: torch.dtype, seed: int) -> float:
    a, b = _random((2, side, side), device, dtype, seed)
    c = torch.empty_like(a)
    return 2 * side**3 / _best(lambda: torch.mm(a, b, out=c), device)


def _random(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device, dtype=dtype)


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: the best of several blocks, each long enough for the clock."""
    repeats = max(1, int(1e-3 / max(min(_seconds(run, device, 1) for _ in range(3)), 1e-7)))
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until or best == float("inf"):
        best = min(best, _seconds(run, device, repeats) / repeats)
    return best


def _seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    synchronise(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronise(device)
    return time.perf_counter() - begin


def synchronise(device: torch.device) -> None:
    """Wait for the device, where there is one to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
