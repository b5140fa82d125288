"""How many recoveries fit into memory at once: a small step is measured, the rest is a straight line."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = [
    "MOST_UNQUESTIONED",
    "SHARE",
    "check_memory",
    "free_bytes",
    "highest_resident",
    "is_out_of_memory",
    "peak_bytes",
    "rows_that_fit",
]

MOST_UNQUESTIONED = 1 << 26
"""Bytes that every search may take: ``max_memory`` says how many run at once."""

SHARE = 0.7
"""Of the budget: the measurement does not see what libraries allocate on their own."""


def free_bytes(device: torch.device) -> int:
    """Memory that could be allocated on the device now, within the limits of the process's control group."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min(_available_bytes(), _control_group_bytes())


def _available_bytes() -> int:
    if sys.platform == "linux":
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    import psutil

    return psutil.virtual_memory().available


def _resident_bytes() -> int:
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    import psutil

    return psutil.Process().memory_info().rss


def _control_group_bytes() -> int:
    root = Path("/sys/fs/cgroup")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return max(int((root / limit).read_text()) - int((root / used).read_text()), 0)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return sys.maxsize


def check_memory(name: str, needed: int, budget: int | None, device: torch.device) -> None:
    """Raise ValueError where arithmetic alone tells that a search bursts memory; nothing is allocated.

    Parameters
    ----------
    name : str
        Arguments that decide how much is needed, and their values.
    needed : int
        Bytes.
    budget : int or None
        ``max_memory``; None: what is free on the device.
    device : torch.device
    """
    if needed <= MOST_UNQUESTIONED:
        return
    most = free_bytes(device) if budget is None else budget
    if needed > most:
        limit = "free memory" if budget is None else "max_memory"
        raise ValueError(f"{name}: expected to fit into {limit}, {most} bytes, found {needed} needed")


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most memory that `work` holds at once beyond what was there before.

    On a CPU it is the growth of what is resident, to a page; where the system does not tell (other than
    Linux) at least that much is returned.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    _give_back_free_memory()
    before = _resident_bytes()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    work()
    return max(highest_resident() - before, 0)


def highest_resident() -> int:
    """The most bytes that this process has had resident at once."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _give_back_free_memory() -> None:
    """Freed memory that the allocator keeps would be used again without the process growing."""
    with contextlib.suppress(OSError, AttributeError):  # glibc's own
        ctypes.CDLL(None).malloc_trim(0)


def rows_that_fit(measured: dict[int, int], row_bytes: int, budget: int) -> int:
    """How many rows the budget bears, at least one.

    Parameters
    ----------
    measured : dict
        Peak bytes of a step by its number of rows, two of them.
    row_bytes : int
        What a row keeps between steps.
    budget : int
        Bytes.
    """
    (few, low), (many, high) = sorted(measured.items())
    each = max((high - low) / (many - few), 0) + row_bytes
    fixed = max(low - few * (high - low) / (many - few), 0)
    return max(int((SHARE * budget - fixed) / each), 1) if each else 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on either device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
