"""The part of the suite on kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from benchmarks.reliability.kills.runs import (
    INTERRUPTED,
    VICTIMS,
    audit,
    broken,
    ended,
    leftovers,
    prepared,
    recovery,
    results,
    start,
    with_broken_screen,
)
from benchmarks.reliability.part import Outcome, generator
from benchmarks.reliability.sources import EVERYTHING

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
SCREENS = ("/dev/full", "pipe")


class Kills:
    """An audit, or a recovery with a checkpoint, is ended at random moments, one to three times, by SIGKILL,
    SIGTERM or SIGINT, and then run to its end; or an audit's screen is a full device or a pipe that nobody
    reads any more. Whatever is on disk after each end is whole; what was finished keeps its bytes; at the end
    everything has the bits of a run that nobody disturbed, and no temporary file is left.
    """

    name, title = "kills", "Kills"
    amount, block, patience = 100, 25, 200.0
    environment = MappingProxyType({"OMP_NUM_THREADS": "1"})
    sources = EVERYTHING

    def draw(self, seed: int, number: int) -> tuple[str, str, list[float], np.random.Generator]:
        """What is run, what ends it, and when, as parts of its time."""
        rng = generator(self.name, seed, number)
        if rng.random() < 0.15:
            return "audit", str(rng.choice(SCREENS)), [], rng
        name = "audit" if rng.random() < 0.6 else "recovery"
        moments = [float(rng.uniform(0, 1.1)) for _ in range(int(rng.integers(1, 4)))]
        return name, str(rng.choice(SIGNALS)), moments, rng

    def show(self, seed: int, number: int) -> str:
        name, how, moments, _ = self.draw(seed, number)
        return f"{name}, {how} after {', '.join(f'{m:.2f}' for m in moments) or 'some lines'} of its time"

    def check(self, seed: int, number: int) -> Outcome:
        name, how, moments, rng = self.draw(seed, number)
        outcome = Outcome()
        outcome.counts[f"{name}: {how}"] += max(len(moments), 1)
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            output = Path(folder) / "out"
            faults = (
                _killed(name, output, how, moments) if moments else _unseen(output, how, int(rng.integers(3)))
            )
        outcome.faults += [f"{self.show(seed, number)}: {fault}" for fault in faults]
        return outcome


@cache
def _undisturbed(name: str) -> tuple[Path, dict[str, bytes], float]:
    """Files to work on, the results of a run that nobody disturbs, and its seconds; once a process."""
    folder = prepared(Path(tempfile.mkdtemp(prefix="undisturbed-")) / "data")
    output = folder.parent / name
    began = time.monotonic()
    code = ended(start(RUNS[name], folder, output))
    seconds = time.monotonic() - began
    kept = results(output)
    if code != 0 or len(kept) != (VICTIMS if name == "audit" else 1) or leftovers(output):
        raise RuntimeError(f"{name}: status {code}, results {sorted(kept)}, left {leftovers(output)}")
    return folder, kept, seconds


RUNS = {"audit": audit, "recovery": recovery}


def _killed(name: str, output: Path, how: str, moments: list[float]) -> list[str]:
    folder, exact, seconds = _undisturbed(name)
    faults: list[str] = []
    kept: dict[str, bytes] = {}
    for moment in moments:
        child = start(RUNS[name], folder, output)
        time.sleep(moment * seconds)
        os.kill(child, getattr(signal, how))
        code = ended(child)
        allowed = {0, -getattr(signal, how)} | ({INTERRUPTED} if how == "SIGINT" else set())
        if code not in allowed:
            faults.append(f"status {code} after {how}")
        faults += broken(output)
        now = results(output)
        faults += [f"{file} was lost" for file in kept if file not in now]
        faults += [f"{file} was changed" for file in kept if now.get(file, kept[file]) != kept[file]]
        kept = now
    if (code := ended(start(RUNS[name], folder, output))) != 0:
        faults.append(f"status {code} at the end")
    return faults + _wrong_end(name, output, exact)


def _unseen(output: Path, screen: str, lines: int) -> list[str]:
    folder, exact, _ = _undisturbed("audit")
    code, errors = with_broken_screen(folder, output, screen, lines)
    faults = [] if code == 0 else [f"status {code}: {errors[-200:]}"]
    if "Traceback" in errors:
        faults.append(f"a traceback: {errors[-200:]}")
    return faults + _wrong_end("audit", output, exact)


def _wrong_end(name: str, output: Path, exact: dict[str, bytes]) -> list[str]:
    found = results(output)
    faults = [f"no {file}" for file in exact if file not in found]
    faults += [f"{file} has other bits" for file in exact if found.get(file, exact[file]) != exact[file]]
    faults += [f"{file} is left" for file in leftovers(output)]
    faults += broken(output)
    if name == "audit":
        summary = output / "summary.json"
        content = json.loads(summary.read_text()) if summary.exists() else {}
        if content.get("finished") != VICTIMS or content.get("status") != "finished":
            said = {key: content.get(key) for key in ("finished", "status")}
            faults.append(f"the summary says {said}")
    shutil.rmtree(output, ignore_errors=True)
    return faults
