"""Timing of several contenders in one run, in turns, so that the machine's moods hit all alike."""

import gc
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sapag_fast import __version__
from sapag_fast.distances import operators as ops


def time_in_turns(
    contenders: dict[str, Callable[[], object]],
    *,
    rounds: int,
    budget: float = 0.05,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a call of every contender, one number a round; each round calls a contender as often as fits
    into ``budget`` seconds (at least once), the order turning from round to round. Work on one thread may be
    timed by the process's own clock, ``time.process_time``, which stands still while others have the core."""
    repeats = {}
    for name, contender in contenders.items():
        contender()
        start = clock()
        contender()
        repeats[name] = max(1, int(budget / max(clock() - start, 1e-7)))
    names, seconds = list(contenders), {name: [] for name in contenders}
    gc.disable()
    try:
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                contender = contenders[name]
                start = clock()
                for _ in range(repeats[name]):
                    contender()
                seconds[name].append((clock() - start) / repeats[name])
    finally:
        gc.enable()
    return seconds


def quantiles(values: list[float]) -> dict[str, float]:
    """The 20, 50 and 80 % quantiles."""
    return {f"q{q}": float(np.quantile(values, q / 100)) for q in (20, 50, 80)}


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Quantiles of how many times longer ``slow`` took, round by round."""
    return quantiles([s / f for s, f in zip(slow, fast, strict=True)])


def machine() -> dict[str, str | int]:
    """What a result must name to be comparable: processor, versions, commit."""
    model = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return {
        "device": model,
        "capability": ops.cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sapag_fast": __version__,
        "commit": source_commit(),
    }


def source_commit() -> str:
    """This checkout's commit, ``-dirty`` if files other than results and texts have changed since; or
    SAPAG_FAST_COMMIT, where a copy runs that has none (gpu.sh sets it)."""
    if given := os.environ.get("SAPAG_FAST_COMMIT"):
        return given
    source = (":(top)", ":(top,exclude)benchmarks/results", ":(top,exclude)*.md")
    commit, changed = _git("rev-parse", "--short", "HEAD"), _git("diff", "--name-only", "HEAD", "--", *source)
    return commit + "-dirty" * bool(changed) if commit else "unknown"


def _git(*words: str) -> str:
    if shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
