"""A step that is watched and a step that nobody watches, timed in turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from sapag_fast.profiler.ceilings import synchronise
from sapag_fast.profiler.stages import watched_step, watching
from sapag_fast.profiler.timeline import Clock, DeviceClock, HostClock, Timeline
from sapag_fast.search.batch import Batch

__all__ = ["Block", "Limits", "Turns", "quickest", "run_seconds", "time_in_turns"]

_BLOCK_SECONDS = 0.001  # long enough for the clock, short enough to find a moment when nothing else runs
_FEWEST_BLOCKS = 5


@dataclass(frozen=True)
class Limits:
    """How long to measure: so many evaluations each way, but no longer than about so many seconds."""

    evaluations: int
    seconds: float


@dataclass(frozen=True)
class Block:
    """A step, averaged over a few of them.

    Attributes
    ----------
    seconds : float
        Wall time.
    parts : dict
        Seconds of what is told apart.
    processor : float
        The processor's seconds, in which other processes have no share.
    """

    seconds: float
    parts: dict[Hashable, float]
    processor: float = 0.0


@dataclass(frozen=True)
class Turns:
    """Both kinds of step.

    Attributes
    ----------
    plain, watched : Block
        A step that nobody watches, and one with its stages.
    processor_overhead : float
        What watching adds to the processor's time, as a fraction.
    """

    plain: Block
    watched: Block
    processor_overhead: float


def time_in_turns(batch: Batch, device: torch.device, limits: Limits) -> Turns:
    """Time both kinds of step.

    Blocks of steps take turns, so that the machine's moods hit both alike; of each kind the quickest eighth
    counts.
    """
    clock: Clock = DeviceClock() if device.type == "cuda" else HostClock()
    one = run_seconds(batch.step, device)
    steps = min(max(1, int(_BLOCK_SECONDS / one)), max(1, limits.evaluations // _FEWEST_BLOCKS))
    blocks = max(_FEWEST_BLOCKS, round(limits.evaluations / steps))

    def timed(run: Callable[[], None]) -> tuple[float, float]:
        processor = time.process_time()
        seconds = run_seconds(run, device)
        return seconds / steps, (time.process_time() - processor) / steps

    def plain() -> Block:
        def run() -> None:
            for _ in range(steps):
                batch.step()

        seconds, processor = timed(run)
        return Block(seconds, {}, processor)

    def watched() -> Block:
        timeline = Timeline(clock)

        def run() -> None:
            for _ in range(steps):
                watched_step(batch, timeline)

        with watching(batch, timeline):
            seconds, processor = timed(run)
        return Block(seconds, {key: part / steps for key, part in timeline.seconds().items()}, processor)

    until = time.perf_counter() + limits.seconds
    plains: list[Block] = []
    watcheds: list[Block] = []
    gc.collect()
    gc.disable()
    try:
        for done in range(blocks):
            if done >= _FEWEST_BLOCKS and time.perf_counter() > until:
                break
            for run, kept in ((plain, plains), (watched, watcheds))[:: 1 if done % 2 else -1]:
                kept.append(run())
    finally:
        gc.enable()
    processor = _least_processor(watcheds) / _least_processor(plains) - 1.0
    return Turns(quickest(plains), quickest(watcheds), processor)


def quickest(blocks: Sequence[Block]) -> Block:
    """The mean of the quickest eighth: what slows a block is seldom its own doing."""
    kept = sorted(blocks, key=lambda block: block.seconds)[: (len(blocks) + 7) // 8]
    parts: dict[Hashable, float] = {}
    for block in kept:
        for key, seconds in block.parts.items():
            parts[key] = parts.get(key, 0.0) + seconds / len(kept)
    return Block(
        sum(block.seconds for block in kept) / len(kept),
        parts,
        sum(block.processor for block in kept) / len(kept),
    )


def _least_processor(blocks: Sequence[Block]) -> float:
    """Of the half that took least of the processor's time, the mean."""
    kept = sorted(block.processor for block in blocks)[: (len(blocks) + 1) // 2]
    return sum(kept) / len(kept)


def run_seconds(run: Callable[[], None], device: torch.device) -> float:
    """Wall time, the device's work included."""
    synchronise(device)
    begin = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - begin
