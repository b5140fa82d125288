"""A step at one number of recoveries, measured in every way.

Timed unwatched and watched in turns, then looked at layer by layer, counted, traced and weighed, each in
steps of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Hashable
from pathlib import Path

import torch

from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.profiler.ceilings import Ceilings, bound, synchronise
from sapag_fast.profiler.layers import FORWARD_PART, SUMS_PART, watching_layers
from sapag_fast.profiler.preparation import Preparation
from sapag_fast.profiler.result import LayerProfile, Level, StageProfile
from sapag_fast.profiler.stages import STAGES, watched_step, watching
from sapag_fast.profiler.timeline import Clock, DeviceClock, HostClock, Pointer, Timeline
from sapag_fast.profiler.trace import Traced, traced
from sapag_fast.profiler.turns import Block, Limits, quickest, run_seconds, time_in_turns
from sapag_fast.profiler.work import Work, WorkCounter
from sapag_fast.runtime.cuda_graph import captured
from sapag_fast.runtime.memory import peak_bytes
from sapag_fast.search.batch import Batch

__all__ = ["measure"]

_LAYER_SECONDS, _FEWEST_LAYER_STEPS, _MOST_LAYER_STEPS = 0.5, 3, 64
_GRAPH_STEPS = 32
_TRACED, _QUICK_TRACED, _QUICK_SECONDS = 3, 12, 0.05
"""Steps under torch.profiler: more of them if they are quick."""


def measure(
    preparation: Preparation, recoveries: int, ceilings: Ceilings, limits: Limits, trace: Path | None
) -> Level:
    """Profile so many recoveries at once, within the preparation's `conditions`.

    Parameters
    ----------
    preparation : Preparation
        The attack.
    recoveries : int
        R.
    ceilings : Ceilings
        Of the machine.
    limits : Limits
        How long to time.
    trace : Path or None
        Where to write a trace of a few steps.
    """
    device = preparation.device
    run = preparation.run(recoveries)
    batch = run.batch
    matching = batch.objective.matching
    age = _warm_up(batch, device, preparation.setup.recipe.history, limits.seconds)
    timed = time_in_turns(batch, device, limits)
    plain, stages = timed.plain.seconds, timed.watched.parts
    layers = _layer_seconds(batch, device, plain)
    work = _count(batch)
    under_profiler = traced(batch, device, _QUICK_TRACED if plain < _QUICK_SECONDS else _TRACED, trace)
    peak = peak_bytes(batch.step, device)
    gaps = _gaps(under_profiler, plain)
    return Level(
        recoveries=recoveries,
        mode=matching.mode,
        mode_reason=run.search.mode_reason,
        step_seconds=plain,
        watched_seconds=timed.watched.seconds,
        processor_overhead=timed.processor_overhead,
        age=age,
        stages=tuple(_stage(s, stages.get(s, 0.0), gaps.get(s, 0.0), work, ceilings) for s in STAGES),
        layers=_layers(matching, layers, work, plain) if isinstance(matching, ExplicitMatching) else (),
        peak_bytes=peak,
        launches=under_profiler.launches,
        graph_seconds=_replayed(batch, device),
        attack_steps=preparation.setup.recipe.steps,
    )


def _warm_up(batch: Batch, device: torch.device, history: int, seconds: float) -> int:
    """Evaluations that were done: enough to fill the optimiser's history, if the time allows."""
    until, done = time.perf_counter() + seconds, 0
    while done < 2 or (done < history and time.perf_counter() < until):
        batch.step()
        synchronise(device)
        done += 1
    return done


def _layer_seconds(batch: Batch, device: torch.device, step_seconds: float) -> dict[Hashable, float]:
    """Of one step, by ``(layer, part)``."""
    matching = batch.objective.matching
    if not isinstance(matching, ExplicitMatching):
        return {}
    clock: Clock = DeviceClock() if device.type == "cuda" else HostClock()
    blocks = []
    for _ in range(min(max(_FEWEST_LAYER_STEPS, int(_LAYER_SECONDS / step_seconds)), _MOST_LAYER_STEPS)):
        timeline = Timeline(clock)
        with watching_layers(matching, timeline):
            whole = run_seconds(batch.step, device)
        timeline.switch(None)
        synchronise(device)
        blocks.append(Block(whole, timeline.seconds()))
    return quickest(blocks).parts


def _count(batch: Batch) -> dict[Hashable, Work]:
    """Work of one step by stage, and of explicit mode's layers by ``(layer, part)``."""
    matching = batch.objective.matching
    stage, layer = Pointer(), Pointer()
    with contextlib.ExitStack() as stack:
        stack.enter_context(watching(batch, stage))
        if isinstance(matching, ExplicitMatching):
            stack.enter_context(watching_layers(matching, layer))
        counter = stack.enter_context(WorkCounter(lambda: (stage.current, layer.current)))
        watched_step(batch, stage)
    counted: dict[Hashable, Work] = {}
    for (of_stage, of_layer), work in counter.counted.items():
        for key in (of_stage, of_layer):
            if key is not None:
                counted[key] = counted.get(key, Work()) + work
    return counted


def _gaps(trace: Traced, step_seconds: float) -> dict[str, float]:
    """Fractions of the stages in which nothing ran.

    What a GPU idles cannot be told by stage: the same for all.
    """
    if trace.busy is None:
        return trace.gaps
    return dict.fromkeys(STAGES, max(0.0, 1.0 - trace.busy / step_seconds))


def _stage(
    name: str, seconds: float, gap: float, work: dict[Hashable, Work], ceilings: Ceilings
) -> StageProfile:
    done = work.get(name, Work())
    least = bound(done, ceilings)
    return StageProfile(name, seconds * (1.0 - gap), seconds * gap, done, least.seconds, least.by)


def _layers(
    matching: ExplicitMatching,
    seconds: dict[Hashable, float],
    work: dict[Hashable, Work],
    step_seconds: float,
) -> tuple[LayerProfile, ...]:
    described: dict[str, list[dict[str, str]]] = {}
    for row in matching.describe():
        described.setdefault(row["layer"], []).append(row)
    profiles = []
    for layer, rows in described.items():
        forward, sums = (layer, FORWARD_PART), (layer, SUMS_PART)
        both = seconds.get(forward, 0.0) + seconds.get(sums, 0.0)
        profiles.append(
            LayerProfile(
                layer=layer,
                rule=rows[0]["rule"],
                ways={row["parameter"]: row["way"] for row in rows},
                why={row["parameter"]: row["why"] for row in rows},
                forward_seconds=seconds.get(forward, 0.0),
                sums_seconds=seconds.get(sums, 0.0),
                share=both / step_seconds,
                work=work.get(forward, Work()) + work.get(sums, Work()),
            )
        )
    return tuple(profiles)


def _replayed(batch: Batch, device: torch.device) -> float | None:
    """Seconds of a step as the attack runs it on a GPU: a captured graph. None elsewhere."""
    if device.type != "cuda":
        return None
    step = captured(batch.step, device)

    def replay() -> None:
        for _ in range(_GRAPH_STEPS):
            step()

    replay()  # the first calls only make up for the capture's own steps
    return run_seconds(replay, device) / _GRAPH_STEPS
