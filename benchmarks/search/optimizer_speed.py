"""Time of one step of R batched optimisers against R objects of torch.optim, history 100.

Every contender walks the same road: before each step it forms the gradient a·x + noise, with 16 noises in
turn, so that no search ever arrives and nearly all pairs enter the history (the report says how many do not).
Forming it belongs to the measured time: one operation on ``[R, N]`` for ours, one on each object's ``[N]``
for torch.optim. torch.optim.LBFGS is given a closure that writes the gradient into ``grad`` and returns a
constant, with ``lr=1, max_iter=1`` and tolerances that never stop it: like ours it evaluates once a step.
torch.optim.Adam runs as it comes (foreach) and with ``fused=True``. ``batched`` is our own path by torch
operations. Every round times every contender once, in turn; ratios are quantiles over rounds.

Bytes are those that have to move: S and Y once (8 m N), and for Adam g, m, v in and m, v, change out (24 N).
Bandwidth is that of torch's sum over as many bytes.

    python -m benchmarks.search.optimizer_speed --rounds 9 --threads 1
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.shared.interleaved import machine, quantiles, ratio, time_in_turns
from sapag_fast.search.optimizers import LBFGS, Adam, Optimizer, Schedule

SIZES = (784, 3072)
RECOVERIES = (1, 64)
HISTORY = 100
RATE = Schedule(lr=1e-3)
NOISES = 16
NEVER = {"tolerance_grad": -1.0, "tolerance_change": -float("inf")}


class Road:
    """Variables and gradients of R recoveries, in one tensor or in R of them."""

    def __init__(self, recoveries: int, size: int) -> None:
        generator = torch.Generator().manual_seed(size)
        self.curvatures = 0.5 + torch.rand(size, generator=generator)
        self.start = torch.randn(recoveries, size, generator=generator)
        self.noise = 0.1 * torch.randn(NOISES, recoveries, size, generator=generator)


def batched(road: Road, optimizer: Optimizer) -> Callable[[], None]:
    x, gradient, calls = road.start.clone(), torch.empty_like(road.start), 0

    def step() -> None:
        nonlocal calls
        torch.addcmul(road.noise[calls % NOISES], road.curvatures, x, out=gradient)
        x.add_(optimizer.step(gradient))
        calls += 1

    return step


def one_by_one(
    road: Road, make: Callable[[list[Tensor]], torch.optim.Optimizer], closures: bool
) -> Callable[[], None]:
    variables = [row.clone().requires_grad_() for row in road.start]
    values = [x.detach() for x in variables]
    optimizers = [make([x]) for x in variables]
    loss, calls = torch.zeros(()), 0
    for x in variables:
        x.grad = torch.empty_like(x)

    def gradient(r: int) -> Tensor:
        torch.addcmul(road.noise[calls % NOISES, r], road.curvatures, values[r], out=variables[r].grad)
        return loss

    def step() -> None:
        nonlocal calls
        for r, optimizer in enumerate(optimizers):
            if closures:
                optimizer.step(partial(gradient, r))
            else:
                gradient(r)
                optimizer.step()
        calls += 1

    return step


def read(size: int) -> Callable[[], object]:
    """A sum over `size` bytes."""
    memory = torch.ones(size // 4)
    return memory.sum


def measure(recoveries: int, size: int, rounds: int) -> dict[str, Any]:
    """Quantiles in microseconds for each step of each recovery, ratios, bytes and bandwidths."""
    road = Road(recoveries, size)
    own = {"LBFGS": LBFGS(recoveries, size, history=HISTORY), "Adam": Adam(recoveries, size, RATE)}
    slow = {
        "LBFGS batched": LBFGS(recoveries, size, history=HISTORY, backend="torch"),
        "Adam batched": Adam(recoveries, size, RATE, backend="torch"),
    }
    lbfgs = partial(torch.optim.LBFGS, lr=1, max_iter=1, history_size=HISTORY, **NEVER)
    runs = {name: batched(road, optimizer) for name, optimizer in (own | slow).items()}
    runs["torch.optim.LBFGS"] = one_by_one(road, lbfgs, closures=True)
    runs["torch.optim.Adam"] = one_by_one(road, partial(torch.optim.Adam, lr=1e-3), closures=False)
    fused = partial(torch.optim.Adam, lr=1e-3, fused=True)
    runs["torch.optim.Adam fused"] = one_by_one(road, fused, closures=False)
    for run in runs.values():
        for _ in range(HISTORY + 5):
            run()
    skipped = _skipped(own["LBFGS"], batched(road, own["LBFGS"]))
    size_of = {"LBFGS": 8 * HISTORY * size * recoveries, "Adam": 24 * size * recoveries}
    for name, moved in size_of.items():
        runs[f"read {name}"] = read(moved)
    seconds = time_in_turns(runs, rounds=rounds)
    peers = {
        "LBFGS": ("torch.optim.LBFGS", "LBFGS batched"),
        "Adam": ("torch.optim.Adam", "torch.optim.Adam fused", "Adam batched"),
    }
    return {
        "microseconds": {
            name: quantiles([value / recoveries * 1e6 for value in values])
            for name, values in seconds.items()
        },
        "times faster": {
            name: {peer: ratio(seconds[peer], seconds[name]) for peer in peers[name]} for name in own
        },
        "bytes a step": size_of,
        "fraction of bandwidth": {name: ratio(seconds[f"read {name}"], seconds[name]) for name in own},
        "gigabytes a second read": {
            name: quantiles([moved / value / 1e9 for value in seconds[f"read {name}"]])
            for name, moved in size_of.items()
        },
        "pairs skipped": skipped,
    }


def _skipped(optimizer: LBFGS, step: Callable[[], None]) -> float:
    """The share of pairs that do not enter the history."""
    taken = 0
    for _ in range(NOISES):
        before = optimizer.state()["slot"]
        step()
        taken += int((optimizer.state()["slot"] != before).sum())
    return 1.0 - taken / (NOISES * len(before))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "optimizer_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "benchmark": "optimizer_speed",
        **machine(),
        "rounds": options.rounds,
        "history": HISTORY,
    }
    print(
        "N, R, optimiser: time a step and recovery; times faster than (20, 50, 80 %); bytes; of the bandwidth"
    )
    for size in SIZES:
        for recoveries in RECOVERIES:
            found = measure(recoveries, size, options.rounds)
            report[f"N={size} R={recoveries}"] = found
            for name, faster in found["times faster"].items():
                ratios = "  ".join(
                    f"{peer} {q['q20']:.1f} {q['q50']:.1f} {q['q80']:.1f}" for peer, q in faster.items()
                )
                time = found["microseconds"][name]["q50"]
                moved = found["bytes a step"][name] / 1e6
                share = found["fraction of bandwidth"][name]["q50"]
                speed = found["gigabytes a second read"][name]["q50"]
                print(f"{size:5} {recoveries:3} {name:6} {time:8.2f} µs  {ratios}", end="  ")
                print(f"{moved:.2f} MB  {share:.2f} of {speed:.0f} GB/s")
            print(f"{'':10} pairs skipped: {found['pairs skipped']:.1%}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
