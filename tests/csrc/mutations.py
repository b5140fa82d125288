"""Breaks the CUDA kernels on purpose, one line at a time, and requires that the emulated tests notice.

    python tests/csrc/mutations.py [--jobs 2] [--only PATTERN] [--seconds 600]

Each mutation is applied to a copy of csrc, built, and run on a part of what test_cuda_emulated.py runs:
plain, under ThreadSanitizer, under AddressSanitizer, until one of them fails. Prints which one it was.
A mutation that none of them notices makes the script fail. One that the time left no room for does not.
"""

import argparse
import math
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from emulation.mutation_list import MUTATIONS, Mutation
from emulation.toolchain import EMULATION, ROOT, BuildError, Outcome, Toolchain, execute, missing

MODES = {"plain": (600,), "thread": (200, "small"), "address": (60,)}
HEADERS = (".cuh", ".h")


def sources(root: Path) -> list[Path]:
    cuda = root / "csrc" / "cuda"
    kernels = [*sorted(p for p in cuda.glob("*.cu") if p.name != "device.cu"), *sorted(cuda.glob("*.cpp"))]
    return [*kernels, EMULATION / "run_tables.cpp"]


class UnnoticedError(Exception):
    pass


def first_line_of_interest(outcome: Outcome) -> str:
    """Of a failed run: the report's own summary."""
    marks = r"^(emulation: .*|seed \d+: .*|SUMMARY: .*|.*runtime error: .*|no end after .*)$"
    found = re.search(marks, outcome.output, re.MULTILINE)
    lines = [found.group(0)] if found else outcome.output.strip().splitlines()
    return re.sub(r"/\S*/", "", lines[-1])[:90] if lines else f"ended with {outcome.code}"


def notice(base: Toolchain, mutation: Mutation) -> tuple[str, str]:
    """The mode that noticed the mutation, and what it said."""
    with TemporaryDirectory() as folder:
        root = Path(folder, "repository")
        shutil.copytree(base.root / "csrc", root / "csrc")
        path = root / "csrc" / "cuda" / mutation.file
        text = path.read_text()
        if text.count(mutation.old) != 1:
            raise UnnoticedError(f"occurs {text.count(mutation.old)} times: {mutation.old!r}")
        path.write_text(text.replace(mutation.old, mutation.new))
        toolchain = Toolchain(Path(folder, "build"), root, jobs=1, emulator=base.emulator_object())
        if path.suffix not in HEADERS:  # only one file's object is another
            for (source, mode), built in base.objects.items():
                if source.name != mutation.file:
                    inside = source.is_relative_to(base.root)
                    copy = root / source.relative_to(base.root) if inside else source
                    toolchain.objects[copy, mode] = built
        for mode, (tables, *options) in MODES.items():
            if missing(mode):
                continue
            try:
                program = toolchain.program("run_tables", sources(root), mode)
            except BuildError as error:
                raise UnnoticedError(f"does not compile: {error}") from error
            outcome = execute(program, 0, tables, *options, timeout=300)
            if outcome.code:
                return mode, first_line_of_interest(outcome)
        raise UnnoticedError("passes all runs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutations at a time")
    parser.add_argument("--only", default="", help="only mutations whose description matches this")
    parser.add_argument("--seconds", type=float, default=math.inf, help="no mutation is begun after so long")
    arguments = parser.parse_args()
    if missing("plain"):
        print(missing("plain"))
        return 2
    chosen = [m for m in MUTATIONS if re.search(arguments.only, m.what)]
    start = time.monotonic()
    unnoticed = left_out = 0
    with TemporaryDirectory() as folder:
        # A copy: the sources may be worked on meanwhile.
        original = Path(folder, "repository")
        shutil.copytree(ROOT / "csrc", original / "csrc")
        base = Toolchain(Path(folder, "build"), original, jobs=arguments.jobs)
        for mode, (_, *options) in MODES.items():
            if missing(mode):
                print(f"without {mode}: {missing(mode)}")
                continue
            outcome = execute(base.program("run_tables", sources(original), mode), 0, 40, *options)
            if outcome.code:
                print(f"the kernels fail as they are, {mode}: {first_line_of_interest(outcome)}")
                return 2

        def attempt(mutation: Mutation) -> tuple[str, str]:
            if time.monotonic() - start > arguments.seconds:
                return "LEFT OUT", "no time"
            try:
                return notice(base, mutation)
            except UnnoticedError as failure:
                return "NONE", str(failure)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            for mutation, (mode, said) in zip(chosen, pool.map(attempt, chosen), strict=True):
                unnoticed += mode == "NONE"
                left_out += mode == "LEFT OUT"
                print(f"{mode:8} {mutation.file:16} {mutation.what:52} {said}", flush=True)
    seconds = time.monotonic() - start
    tried = len(chosen) - left_out
    print(f"{tried - unnoticed} of {tried} mutations noticed, {left_out} left out, {seconds:.0f} s")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
