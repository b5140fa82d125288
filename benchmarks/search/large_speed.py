"""Time and memory of an evaluation on networks of 3x224x224 images and 1000 classes, for each recovery.

*explicit* evaluates all R at once; *loop*, the fair loop of `step_speed`, and *single*, this package's plain
autograd (with one recovery), evaluate one of them, since they take R times that for all. After one
evaluation, by which memory is told (what the process grows by beyond what it held), every round times every
contender once, in turn; ratios are quantiles over rounds. On one thread the clock is the process's own,
which stands still while others have the core.

    python -m benchmarks.search.large_speed --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import RESULTS
from benchmarks.search.step_speed import explicit, fair_loop
from benchmarks.shared.interleaved import machine, quantiles, ratio
from benchmarks.shared.step_networks import case_of
from sapag_fast.matching.one_by_one import SingleMatching
from sapag_fast.models import make_model
from sapag_fast.runtime.memory import peak_bytes

SHAPE = (3, 224, 224)
CLASSES = 1000
CPU = torch.device("cpu")


def resnet18() -> nn.Module:
    """ImageNet's, in evaluation mode."""
    return make_model("resnet18", image_size=SHAPE[-1], classes=CLASSES, stem="7x7").eval()


def vit_b16() -> nn.Module:
    """ViT-B/16."""
    side = SHAPE[-1]
    return make_model(
        "vit", image_size=side, classes=CLASSES, patch=16, width=768, layers=12, heads=12
    ).eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-18": (resnet18, (1, 4, 8)),
    "ViT-B/16": (vit_b16, (1, 4)),
}
"""Constructor, and numbers of recoveries."""


def measure(make: Callable[[], nn.Module], recoveries: int, rounds: int) -> dict:
    """Milliseconds of one evaluation and recovery, MiB of all, and how many times faster explicit mode is."""
    torch.manual_seed(0)
    case = case_of(make(), SHAPE, recoveries)
    matching = SingleMatching(case.problem())
    one = (case.inputs[:1], case.labels[:1])
    runs: dict[str, Callable[[], object]] = {"loop": fair_loop(case), "explicit": explicit(case)[1]}
    if recoveries == 1:
        runs["single"] = lambda: matching.value_and_gradient(*one)
    peaks = {name: peak_bytes(run, CPU) / 2**20 for name, run in runs.items()}
    seconds = _timed(runs, rounds)
    seconds["explicit"] = [value / recoveries for value in seconds["explicit"]]
    each = {k: [value * 1e3 for value in v] for k, v in seconds.items()}
    return {
        "milliseconds": {k: quantiles(v) for k, v in each.items()},
        "times faster": {k: ratio(v, each["explicit"]) for k, v in each.items() if k != "explicit"},
        "peak MiB": peaks,
    }


def _timed(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender, one number a round: an evaluation takes seconds, once is enough."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    names, seconds = list(runs), {name: [] for name in runs}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = clock()
            runs[name]()
            seconds[name].append(clock() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--recoveries", type=int, nargs="+", help="in place of each network's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "large_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report: dict = {"benchmark": "large_speed", **machine(), "rounds": options.rounds}
    report["cores"], report["load"] = os.cpu_count(), os.getloadavg()[0]
    with sdpa_kernel(SDPBackend.MATH):
        for name in options.networks:
            make, usual = NETWORKS[name]
            report[name] = {}
            for count in options.recoveries or usual:
                report[name][str(count)] = found = measure(make, count, options.rounds)
                print(name, count, found, flush=True)
                options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
