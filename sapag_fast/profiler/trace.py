"""A few steps under torch.profiler.

They tell how much of each stage its operators do not account for, count kernel launches, and give a trace for
Chrome or Perfetto.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from sapag_fast.files.output import replacing
from sapag_fast.profiler.ceilings import synchronise
from sapag_fast.profiler.stages import watched_step, watching
from sapag_fast.search.batch import Batch

__all__ = ["Traced", "traced"]

_PREFIX = "sapag_fast: "
_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")


@dataclass(frozen=True)
class Traced:
    """What torch.profiler saw.

    Attributes
    ----------
    gaps : dict
        By stage the fraction of the host's time outside of operators.
    launches, busy : float or None
        On a GPU, kernels a step and seconds a step in which kernels run.
    """

    gaps: dict[str, float]
    launches: float | None
    busy: float | None


class _Ranges:
    """A `Switch` that names what is going on for torch.profiler and, on a GPU, for NVTX."""

    def __init__(self, device: torch.device) -> None:
        self.current: Hashable | None = None
        self._nvtx = device.type == "cuda"
        self._open: contextlib.ExitStack | None = None

    def switch(self, to: Hashable | None) -> None:
        """End the range that is open, and begin that of `to`."""
        if self._open is not None:
            self._open.close()
            self._open = None
        self.current = to
        if to is None:
            return
        self._open = contextlib.ExitStack()
        self._open.enter_context(record_function(f"{_PREFIX}{to}"))
        if self._nvtx:
            self._open.enter_context(torch.cuda.nvtx.range(str(to)))


def traced(batch: Batch, device: torch.device, steps: int, path: Path | None = None) -> Traced:
    """Run so many steps, and write their trace (JSON) to `path`."""
    activities = [ProfilerActivity.CPU]
    on_gpu = device.type == "cuda"
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    ranges = _Ranges(device)
    with watching(batch, ranges):
        watched_step(batch, ranges)  # what is set up once is none of a step's
        synchronise(device)
        with profile(activities=activities, acc_events=True) as profiler:
            for _ in range(steps):
                watched_step(batch, ranges)
            synchronise(device)
    if path is not None:
        with replacing(path, durable=False) as temporary:
            profiler.export_chrome_trace(str(temporary))
    events: Sequence[Any] = profiler.events() or ()
    gaps = _gaps(events, steps)
    if not on_gpu:
        return Traced(gaps, None, None)
    launches = sum(event.key in _LAUNCHES for event in events)
    kernels = [
        event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    busy = sum(event.self_device_time_total for event in kernels) / 1e6
    return Traced(gaps, launches / steps, busy / steps)


def _gaps(events: Sequence[Any], steps: int) -> dict[str, float]:
    """Of each stage, in the quarter of the steps in which it was quickest.

    A step that was interrupted is all gap.
    """
    ranges: dict[str, list[tuple[float, float]]] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.key.startswith(_PREFIX) and event.device_type == DeviceType.CPU:
            entry = (event.cpu_time_total, event.self_cpu_time_total)
            ranges.setdefault(event.key.removeprefix(_PREFIX), []).append(entry)
    gaps = {}
    for stage, all_of_it in ranges.items():
        each = len(all_of_it) // steps
        by_step = sorted(
            tuple(map(sum, zip(*all_of_it[step * each : (step + 1) * each], strict=True)))
            for step in range(steps)
        )
        whole, outside = map(sum, zip(*by_step[: (steps + 3) // 4], strict=True))
        gaps[stage] = outside / whole if whole else 0.0
    return gaps
