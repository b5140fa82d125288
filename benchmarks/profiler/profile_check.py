"""Whether the profiler's stages add up to the wall time of a step that nobody watches: the bar is 5 %.

Each round profiles LeNet, ResNet-18 and a small transformer anew, at several numbers of recoveries; in a
profile, steps that are watched and steps that are not take turns. The bar is held against the median over
rounds of the sum of all stages over the wall time. *undisturbed* is the same with the processor's time in
place of the wall's, in which other processes on the machine have no share: where it is in and the former out,
they were in the way.

    OMP_NUM_THREADS=1 python -m benchmarks.profiler.profile_check
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import RESULTS
from benchmarks.shared.interleaved import machine
from benchmarks.shared.step_networks import NETWORKS
from sapag_fast.profiler import AttackProfile, profile_attack

BAR = 0.05
RECOVERIES = {
    "LeNet": (1, 8, 64),
    "ResNet-18, BatchNorm eval": (1, 4),
    "transformer, 2 layers": (1, 8, 32),
}


def profiled(name: str, evaluations: int, seconds: float) -> AttackProfile:
    """One profile of the named network."""
    make, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    return profile_attack(
        make(), shape, recoveries=RECOVERIES[name], evaluations=evaluations, seconds=seconds
    )


def figures(profiles: list[AttackProfile]) -> dict[str, Any]:
    """By R: how far the stages add up in each round, and what the last one says of the time."""
    found = {}
    for place, level in enumerate(profiles[-1].levels):
        rounds = [profile.levels[place] for profile in profiles]
        ratio = median(each.accounted for each in rounds)
        found[f"R={level.recoveries}"] = {
            "stages over wall time": ratio,
            "by round": [each.accounted for each in rounds],
            "undisturbed": median(each.accounted_undisturbed for each in rounds),
            "undisturbed by round": [each.accounted_undisturbed for each in rounds],
            "within the bar": abs(ratio - 1) <= BAR,
            "mode": level.mode,
            "milliseconds of a step": [each.step_seconds * 1e3 for each in rounds],
            "milliseconds by stage": {s.name: s.seconds * 1e3 for s in level.stages}
            | {"host gaps": level.gap * 1e3},
            "of the roof by stage": {s.name: s.roofline for s in level.stages},
            "evaluations a second": level.evaluations_per_second,
            "peak MiB": level.peak_bytes / 2**20,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="*", default=list(RECOVERIES), help="beginnings of names")
    parser.add_argument("--output", type=Path, default=RESULTS / "profile_check.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "benchmark": "profile_check",
        **machine(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "bar": BAR,
    }
    kept = True
    for name in RECOVERIES:
        if not any(name.startswith(begin) for begin in options.networks):
            continue
        profiles = [profiled(name, options.evaluations, options.seconds) for _ in range(options.rounds)]
        report[name] = found = figures(profiles) | {"bottleneck": profiles[-1].bottleneck}
        for count, level in found.items():
            if count == "bottleneck":
                print(f"  {level}")
                continue
            kept = kept and level["within the bar"]
            rounds = ", ".join(f"{value:.3f}" for value in level["by round"])
            print(
                f"{name}, {count}, {level['mode']}: stages over wall time "
                f"{level['stages over wall time']:.3f} ({rounds}), undisturbed "
                f"{level['undisturbed']:.3f}{'' if level['within the bar'] else '  OUTSIDE THE BAR'}",
                flush=True,
            )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
