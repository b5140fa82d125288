"""The CUDA kernels' own source on the host, on random tables of its own program."""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from types import MappingProxyType

from benchmarks.reliability.part import Outcome

ROOT = Path(__file__).resolve().parents[3]
SEEDS = 10**7  # of the program, for each seed of the suite


@cache
def _program() -> Path:
    """Compiled once a process: half a minute."""
    sys.path.insert(0, str(ROOT / "tests" / "csrc"))
    from emulation.toolchain import EMULATION, Toolchain  # type: ignore[import-not-found]

    cuda = ROOT / "csrc" / "cuda"
    kernels = sorted(path for path in cuda.glob("*.cu") if path.name != "device.cu")
    sources = [*kernels, *sorted(cuda.glob("*.cpp")), EMULATION / "run_tables.cpp"]
    folder = Path(tempfile.mkdtemp(prefix="emulated-"))
    return Toolchain(folder, jobs=1).program("run_tables", sources, "plain")


class Emulated:
    """Random tables on the CUDA kernels' source, compiled for the host and run under random schedules,
    against definitions in long double (tests/csrc/emulation): kinds, types, strides, every tier of the
    planner.
    """

    name, title = "cuda", "Tables on the CUDA kernels, emulated"
    amount, block, patience = 4000, 1000, 900.0  # the first case waits for the compiler
    environment = MappingProxyType({"OMP_NUM_THREADS": "1"})
    sources = ("csrc", "tests/csrc/emulation", "benchmarks/reliability/tables/emulated.py")

    def show(self, seed: int, number: int) -> str:
        return f"run_tables {seed * SEEDS + number} 1"

    def check(self, seed: int, number: int) -> Outcome:
        program = _program()
        from emulation.toolchain import execute  # type: ignore[import-not-found]

        done = execute(program, seed * SEEDS + number, 1, timeout=120)
        if done.code:
            return Outcome(faults=[done.output.strip()[-300:] or f"status {done.code}"])
        said = re.findall(r", ([a-z ]+) (\d+)", done.output.splitlines()[-1])
        return Outcome(Counter({name: int(count) for name, count in said}))
