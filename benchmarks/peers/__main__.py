"""Measures the peers and ours on the same victims, in turns, and writes ``peers.json`` and the plot.

python -m benchmarks.peers --data FOLDER
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from benchmarks import RESULTS
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.figures import figures
from benchmarks.peers.measure import Plan, measure
from benchmarks.peers.report import write_plot
from benchmarks.peers.victims import Case
from benchmarks.peers.workers import Workers
from benchmarks.shared.interleaved import machine

CASES = {
    case.name: case
    for case in (
        Case("CIFAR, uniform", "cifar10", "test", 3, "uniform", longest=24_000),
        Case("CIFAR, default", "cifar10", "test", 3, "default", longest=6000),
        Case("MNIST, uniform", "mnist", "test", 1, "uniform", longest=6000),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/ and mnist/")
    parser.add_argument("--victims", type=int, default=20, help="that all contenders share")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--evaluations",
        type=int,
        default=6000,
        help="at most, of a core for one budget: long budgets get fewer victims",
    )
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    photographs = [name for name, case in CASES.items() if case.channels == 3]  # breaching takes no others
    parser.add_argument("--cases", nargs="+", choices=CASES, default=photographs)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    plan = Plan(options.victims, options.rounds, options.evaluations, options.cores)
    found: dict[str, object] = {"benchmark": "peers", "plan": asdict(plan), **machine()}
    cases = found["cases"] = {}
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Workers(*form)) for form in plan.forms()]
        for name in options.cases:
            forms, runs = measure(
                options.data,
                CASES[name],
                options.contenders,
                plan,
                workers,
                lambda line: print(line, flush=True),
            )
            cases[name] = {
                "processes and threads": forms,
                "contenders": figures(runs, plan.victims),
                "runs": [asdict(run) for run in runs],
            }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "peers.json").write_text(json.dumps(found, indent=1) + "\n")
    write_plot(found, options.results)


if __name__ == "__main__":
    main()
