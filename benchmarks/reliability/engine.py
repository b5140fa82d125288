"""Runs the cases of a part in processes of their own, and keeps what is done, so that a run can go on.

A part's cases come in blocks. A worker that dies or hangs in a case is one fault, and the block goes on with
the next case in a new worker.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.part import Part
from benchmarks.reliability.sources import sources_digest
from benchmarks.shared.interleaved import machine
from sapag_fast.files.tensors import replacing

KEPT_FAULTS = 200
WORKER = (sys.executable, "-m", "benchmarks.reliability.worker")
START = 120.0  # seconds that a worker may take to import everything


@dataclass
class Record:
    """What is known of a part: its figures, and the blocks that are done."""

    part: str
    seed: int
    amount: int
    sources: str
    machine: dict[str, Any] = field(default_factory=machine)
    blocks: list[int] = field(default_factory=list)
    cases: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)
    fault_count: int = 0

    @classmethod
    def of(cls, part: Part, seed: int, amount: int, folder: Path) -> Record:
        """What an earlier run of the same cases on the same sources kept, or a new one."""
        fresh = cls(part.name, seed, amount, sources_digest(part.sources))
        path = record_path(folder, part.name)
        if not path.exists():
            return fresh
        known = json.loads(path.read_text())
        same = (known["seed"], known["amount"], known.get("sources"))
        if same != (seed, amount, fresh.sources):
            return fresh
        return cls(**{**known, "counts": Counter(known["counts"])})

    def add(self, block: int, result: BlockResult) -> None:
        self.blocks.append(block)
        self.cases += result.cases
        self.seconds += result.seconds
        self.counts += result.counts
        self.fault_count += len(result.faults)
        self.faults = sorted([*self.faults, *result.faults], key=lambda f: f["case"])[:KEPT_FAULTS]

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(record_path(folder, self.part)) as temporary:
            temporary.write_text(json.dumps(vars(self), indent=1) + "\n")


@dataclass
class BlockResult:
    cases: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)


def record_path(folder: Path, part: str) -> Path:
    return folder / f"{part}.json"


def run_part(
    part: Part, seed: int, amount: int, folder: Path, *, workers: int, ends: float, say: Callable[[str], None]
) -> Record:
    """Run the blocks that are not done, ``workers`` at a time, and start none after the time ``ends``."""
    record = Record.of(part, seed, amount, folder)
    waiting = [b for b in range(-(-amount // part.block)) if b not in record.blocks]
    running: dict[Future[BlockResult], int] = {}
    with ThreadPoolExecutor(workers) as pool:
        while waiting or running:
            while waiting and len(running) < workers and time.monotonic() < ends:
                block = waiting.pop(0)
                first = block * part.block
                count = min(part.block, amount - first)
                running[pool.submit(run_block, part, seed, first, count)] = block
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                record.add(running.pop(future), future.result())
                record.write(folder)
                say(f"{part.name}: {record.cases} of {amount} cases, {record.fault_count} faults")
    record.write(folder)
    return record


def run_block(part: Part, seed: int, first: int, count: int) -> BlockResult:
    """Cases ``first`` to ``first + count``, whatever becomes of the processes that run them."""
    started, result, end = time.monotonic(), BlockResult(), first + count
    while first < end:
        first = _run_worker(part, seed, first, end - first, result)
    result.seconds = time.monotonic() - started
    return result


def _run_worker(part: Part, seed: int, first: int, count: int, result: BlockResult) -> int:
    """Runs one worker to its end, or to the case that ended it; returns the next case to run."""
    command = [*WORKER, part.name, *map(str, (seed, first, count))]
    environment = os.environ | dict(part.environment)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
        reader = _Lines(worker)
        line = reader.next(START)
        while line is not None:
            if "case" in line:
                first = line["case"] + 1
                result.cases += 1
                result.counts += Counter(line["counts"])
                result.faults += [{"case": line["case"], "fault": fault} for fault in line["faults"]]
                count -= 1
            line = reader.next(part.patience) if count else None
        if count:
            hangs = worker.poll() is None and not reader.ended
            worker.kill()
            code = worker.wait()
            why = f"no end within {part.patience:.0f} s" if hangs else f"its process ended with status {code}"
            result.faults.append({"case": first, "fault": why})
            result.cases += 1
            first += 1
    return first


class _Lines:
    """A worker's lines, each waited for no longer than told."""

    def __init__(self, worker: subprocess.Popen[bytes]) -> None:
        assert worker.stdout is not None
        self.descriptor = worker.stdout.fileno()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.descriptor, selectors.EVENT_READ)
        self.buffer, self.ended = b"", False

    def next(self, patience: float) -> dict[str, Any] | None:
        """The next line, or None at the end of the output and when time is up."""
        ends = time.monotonic() + patience
        while b"\n" not in self.buffer:
            left = ends - time.monotonic()
            if left <= 0 or not self.selector.select(left):
                return None
            more = os.read(self.descriptor, 1 << 16)
            if not more:
                self.ended = True
                return None
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)
