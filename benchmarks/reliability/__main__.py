"""python -m benchmarks.reliability: run the cases that are not done yet, then write RELIABILITY.md.

Every case is drawn from (seed, part, number) alone: --part NAME --case N runs one, and prints it.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from benchmarks import BENCHMARKS, RESULTS
from benchmarks.reliability.engine import run_block, run_part
from benchmarks.reliability.parts import PARTS
from benchmarks.reliability.report import write_report

REPORT = BENCHMARKS / "RELIABILITY.md"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--amount", type=int, help="cases of each part; default: the part's own")
    parser.add_argument("--case", type=int, help="run this one case of the part, and print it")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds; later no block is started")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--results", type=Path, default=RESULTS / "reliability")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    if options.case is not None:
        return show(options.part, options.seed, options.case)
    ends, faults = time.monotonic() + options.budget, 0
    for name in options.part:
        part = PARTS[name]
        record = run_part(
            part, options.seed, options.amount or part.amount, options.results,
            workers=options.workers, ends=ends, say=lambda line: print(line, flush=True),
        )  # fmt: skip
        faults += record.fault_count
        for fault in record.faults[:10]:
            print(f"{name}, case {fault['case']}: {fault['fault']}")
    print(f"wrote {write_report(options.results, options.report)}")
    return 1 if faults else 0


def show(names: list[str], seed: int, number: int) -> int:
    """Print and run one case of each part named."""
    faults = 0
    for name in names:
        print(f"{name}, seed {seed}, case {number}: {PARTS[name].show(seed, number)}")
        result = run_block(PARTS[name], seed, number, 1)
        for fault in result.faults:
            print(f"  wrong: {fault['fault']}")
        faults += len(result.faults)
    print("right" if not faults else f"{faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
