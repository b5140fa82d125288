"""Runs of the contenders on all cores.

As many workers as the machine has cores, each one thread, share the victims of a run; the time of a run is
the mean of theirs, since whoever has victims enough leaves none of them idle at the end. A contender whose
operations are large may be better off with all threads in one process: that is another set of workers, and
each contender gets what serves it best.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.victims import Case, load
from benchmarks.peers.watch import Watch, error
from benchmarks.shared.victims import SUCCESS
from sapag_fast.runtime.memory import peak_bytes

__all__ = ["Job", "Outcome", "Run", "Workers", "run_job"]

_SMALLEST = 1e-12  # 120 dB


@dataclass(frozen=True)
class Job:
    """What one worker does of a run: `chosen` of a case's first `count` victims, of which those below
    `watched` are searched once more, watched.
    """

    data: Path
    case: Case
    count: int
    contender: str
    budget: int
    chosen: tuple[int, ...]
    watched: int


@dataclass(frozen=True)
class Outcome:
    """One victim: scores of the image found, evaluations, and, where the search was ``watched``, the first
    evaluation at an iterate with a success's error (None: none).
    """

    victim: int
    mse: float
    psnr: float
    evaluations: int
    success_at: int | None
    watched: bool

    @property
    def success(self) -> bool:
        return self.mse < SUCCESS


@dataclass(frozen=True)
class Run:
    """One contender, one budget, some victims, in so many processes and threads of each: seconds that a
    process was busy, their mean, the most memory that one of them took beyond what it held before, bytes, and
    what came out.
    """

    contender: str
    budget: int
    processes: int
    threads: int
    seconds: float
    memory: int
    outcomes: tuple[Outcome, ...]


def _ready(job: Job) -> None:
    """Load what a job needs, and run the contender's code once."""
    victims = load(job.data, job.case, job.count)
    CONTENDERS[job.contender].run(victims, job.chosen[:1], min(job.budget, 3))


def run_job(job: Job) -> tuple[float, int, tuple[Outcome, ...]]:
    """Seconds, peak memory in bytes, and outcomes."""
    victims = load(job.data, job.case, job.count)
    contender = CONTENDERS[job.contender]
    seconds, found = 0.0, []

    def work() -> None:
        nonlocal seconds, found
        began = time.perf_counter()
        found = contender.run(victims, job.chosen, job.budget)
        seconds = time.perf_counter() - began

    memory = peak_bytes(work, torch.device("cpu"))
    watches = {victim: Watch(victims.images[victim]) for victim in job.chosen if victim < job.watched}
    if watches:
        contender.run(victims, tuple(watches), job.budget, tuple(watches.values()))
    outcomes = []
    for victim, one in zip(job.chosen, found, strict=True):
        mse = error(one.image, victims.images[victim])
        outcomes.append(
            Outcome(
                victim=victim,
                mse=mse,
                psnr=-10 * math.log10(max(mse, _SMALLEST)),
                evaluations=one.evaluations,
                success_at=watches[victim].success_at if victim in watches else None,
                watched=victim in watches,
            )
        )
    return seconds, memory, tuple(outcomes)


def _start(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.disable(logging.INFO)


class Workers:
    """`processes` processes of `threads` threads each; to be used in a ``with`` statement."""

    def __init__(self, processes: int, threads: int) -> None:
        self.threads = threads
        self.form = (processes, threads)
        context = multiprocessing.get_context("spawn")
        # A pool each: two shares in one process would be timed as if they had run side by side.
        self.pools = [
            ProcessPoolExecutor(1, context, initializer=_start, initargs=(threads,)) for _ in range(processes)
        ]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for pool in self.pools:
            pool.shutdown(cancel_futures=True)

    def run(self, job: Job) -> Run:
        """The job's victims, shared out."""
        count = len(self.pools)
        jobs = [replace(job, chosen=share) for k in range(count) if (share := job.chosen[k::count])]

        def all_of(work: Callable[[Job], Any]) -> list[Any]:
            futures = [pool.submit(work, own) for pool, own in zip(self.pools, jobs, strict=False)]
            return [future.result() for future in futures]

        all_of(_ready)
        done = all_of(run_job)
        return Run(
            contender=job.contender,
            budget=job.budget,
            processes=count,
            threads=self.threads,
            seconds=sum(seconds for seconds, _, _ in done) / count,
            memory=max(memory for _, memory, _ in done),
            outcomes=tuple(outcome for _, _, outcomes in done for outcome in outcomes),
        )
