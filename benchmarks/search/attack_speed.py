"""Time of one evaluation of one recovery (optimiser included), against DLG's loop on the same network.

Peers: ``published`` is DLG's loop with ``backward()``; ``fair`` sends the distance's gradient toward the
dummy image alone, as ours does. Both use the eager squared distance and ``torch.optim.LBFGS``; labels are
known to all. Every round times every contender once, in turn, so that a slow spell of the machine hits all of
them; ratios are quantiles over rounds.

    python -m benchmarks.search.attack_speed --rounds 7 --evaluations 100
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import RESULTS
from benchmarks.shared.attack_peers import dlg_loop
from benchmarks.shared.interleaved import machine, quantiles, ratio, time_in_turns
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.matching.choose import choose_matching
from sapag_fast.models import LeNet, initialise
from sapag_fast.search.basis import make_basis
from sapag_fast.search.loop import Search, run_search
from sapag_fast.search.optimizers import LBFGS
from sapag_fast.search.recipe import RECIPES
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.problem import Problem

RECOVERIES = (1, 8, 64)
PEERS = ("published", "fair")


def _victim(channels: int, size: int) -> tuple[LeNet, Tensor, tuple[Tensor, ...]]:
    model = initialise(LeNet(channels=channels, image_size=size), "normal.1")
    image = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([3])
    return model, label, torch.autograd.grad(F.cross_entropy(model(image), label), tuple(model.parameters()))


def _ours(
    channels: int, size: int, recoveries: int, evaluations: int
) -> tuple[Callable[[], object], dict[str, Callable]]:
    """The whole loop, and its parts alone."""
    model, label, target = _victim(channels, size)
    shape = (channels, size, size)
    problem = Problem(
        VictimModel(model),
        F.cross_entropy,
        GradientDistance(),
        [t[None] for t in target],
        restarts=recoveries,
    )
    starts = 0.5 + 0.01 * torch.randn(recoveries, 1, *shape, generator=torch.Generator().manual_seed(1))
    labels = label.expand(recoveries, 1)
    matching = choose_matching(problem, starts, labels).matching
    recipe = RECIPES["smooth-dct" if channels == 3 else "smooth"]
    search = Search(
        matching,
        starts,
        labels,
        replace(recipe, line_search=None, steps=evaluations),
        [make_basis(recipe.basis, shape)],
        bounds=(0.0, 1.0),
        restarts=recoveries,
    )

    def loop() -> None:
        run_search(search)

    optimizer = LBFGS(recoveries, starts[0].numel())
    slope = torch.randn(recoveries, starts[0].numel()) * 0.1
    for _ in range(3):
        optimizer.step(slope + 0.01 * torch.randn_like(slope))
    parts = {
        "matching": lambda: matching.value_and_gradient(starts, labels),
        "lbfgs": lambda: optimizer.step(slope + 0.01 * torch.randn_like(slope)),
    }
    return loop, parts


def measure(channels: int, size: int, rounds: int, evaluations: int) -> dict[str, dict]:
    """Quantiles in milliseconds for each evaluation of each recovery, and ratios over the two peers."""
    model, label, target = _victim(channels, size)
    start = torch.rand(1, channels, size, size)
    runs: dict[str, Callable[[], object]] = {}
    units: dict[str, int] = {}
    for peer in PEERS:
        runs[peer] = partial(
            dlg_loop, model, target, start, label, evaluations=evaluations, published=peer == "published"
        )
        units[peer] = evaluations
    for recoveries in RECOVERIES:
        loop, parts = _ours(channels, size, recoveries, evaluations)
        runs[f"ours R={recoveries}"], units[f"ours R={recoveries}"] = loop, evaluations * recoveries
        for part, run in parts.items():
            runs[f"{part} R={recoveries}"], units[f"{part} R={recoveries}"] = run, recoveries
    seconds = time_in_turns(runs, rounds=rounds)
    each = {name: [value / units[name] * 1e3 for value in values] for name, values in seconds.items()}
    result: dict[str, dict] = {"milliseconds": {name: quantiles(values) for name, values in each.items()}}
    for peer in PEERS:
        result[f"times faster than {peer}"] = {
            name: ratio(each[peer], values) for name, values in each.items() if name.startswith("ours")
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=100, help="of each recovery in each round")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--output", type=Path, default=RESULTS / "attack_speed.json")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    report = {
        "benchmark": "attack_speed",
        **machine(),
        "rounds": options.rounds,
        "evaluations": options.evaluations,
        "LeNet 1x28x28": measure(1, 28, options.rounds, options.evaluations),
        "LeNet 3x32x32": measure(3, 32, options.rounds, options.evaluations),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    for network in ("LeNet 1x28x28", "LeNet 3x32x32"):
        print(network)
        for name, value in report[network]["milliseconds"].items():
            faster = "  ".join(
                f"{report[network][f'times faster than {peer}'][name]['q50']:5.2f} x {peer}"
                for peer in PEERS
                if name.startswith("ours")
            )
            print(f"  {name:16} {value['q50']:8.3f} ms  {faster}")


if __name__ == "__main__":
    main()
