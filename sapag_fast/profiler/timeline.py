"""Time by what was going on: marks at every change, turned into seconds once the run is over."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch

__all__ = ["Clock", "DeviceClock", "HostClock", "Pointer", "Switch", "Timeline"]


class Switch(Protocol):
    """What is told whenever something else begins; ``current`` is what it was told last, None for nothing."""

    current: Hashable | None

    def switch(self, to: Hashable | None) -> None:
        """From now on `to` is going on; None ends the account."""
        ...


class Clock(Protocol):
    """Marks points in time, cheaply, and tells later how many seconds lie between two of them."""

    def mark(self) -> Any:
        """Now."""
        ...

    def between(self, first: Any, second: Any) -> float:
        """Seconds from one mark to a later one; not to be asked before the work is done."""
        ...


class HostClock:
    """The processor's clock."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.mark = now

    def between(self, first: float, second: float) -> float:
        """Seconds from one mark to a later one."""
        return second - first


class DeviceClock:
    """Events on the current CUDA stream: time as the device spends it, waiting included.

    The caller must synchronise before it asks.
    """

    def mark(self) -> torch.cuda.Event:
        """Record an event."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: torch.cuda.Event, second: torch.cuda.Event) -> float:
        """Seconds from one event to a later one."""
        return first.elapsed_time(second) / 1e3


class Timeline:
    """A `Switch` that keeps the time. At most one thing is going on at a time, so times add up."""

    def __init__(self, clock: Clock) -> None:
        self.current: Hashable | None = None
        self._clock = clock
        self._marks: list[tuple[Hashable | None, Any]] = []

    def switch(self, to: Hashable | None) -> None:
        """Mark the time: from now on `to` is going on."""
        self._marks.append((to, self._clock.mark()))
        self.current = to

    def seconds(self) -> dict[Hashable, float]:
        """By what was going on, in the order in which it first was."""
        seconds: dict[Hashable, float] = {}
        for (what, begin), (_, end) in itertools.pairwise(self._marks):
            if what is not None:
                seconds[what] = seconds.get(what, 0.0) + self._clock.between(begin, end)
        return seconds


class Pointer:
    """A `Switch` that only knows what is going on."""

    def __init__(self) -> None:
        self.current: Hashable | None = None

    def switch(self, to: Hashable | None) -> None:
        """Keep `to`."""
        self.current = to
