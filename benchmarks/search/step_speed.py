"""Time of one evaluation (the distance and its gradient toward the input), for each recovery, in explicit
mode against the fair sequential loop.

The loop is what one would write: ``autograd.grad`` with ``create_graph``, the eager distance with everything
that depends on the target alone computed beforehand, ``autograd.grad`` toward the input alone. It runs with
oneDNN as PyTorch comes (``fair``) and, where the network has convolutions, also with PyTorch's own kernels
(``fair, no oneDNN``), which are faster on tiny images. Every round times every contender once, in turn;
ratios are quantiles over rounds.

Memory is the growth of the process's peak resident size (VmHWM, reset before each run) over its size before
the evaluation, in a process of its own.

    python -m benchmarks.search.step_speed --rounds 7
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import RESULTS
from benchmarks.shared.distance_peers import Eager
from benchmarks.shared.interleaved import machine, quantiles, ratio, time_in_turns
from benchmarks.shared.step_networks import NETWORKS, Case, make_case
from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.matching.vmap import VmapMatching

SCALING = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
FORCED = {"MLP 784-4096-4096-10": ("ghost", "low-rank")}
BARS = {
    "LeNet": {"explicit": 6},
    "ResNet-18, BatchNorm eval": {"explicit": 3},
    "MLP 784-4096-4096-10": {"explicit, ghost": 40, "explicit, low-rank": 150},
    "transformer, 2 layers": {"explicit": 3},
}


def fair_loop(case: Case) -> Callable[[], object]:
    """One evaluation of the first recovery."""
    parameters = tuple(case.model.parameters())
    eager = Eager(case.target, False)

    def evaluate() -> object:
        x = case.inputs[0].clone().requires_grad_()
        loss = F.cross_entropy(case.model(x), case.label)
        distance = eager.distance(torch.autograd.grad(loss, parameters, create_graph=True))
        return distance.detach(), torch.autograd.grad(distance, x)

    return evaluate


def _without_onednn(run: Callable[[], object]) -> Callable[[], object]:
    def evaluate() -> object:
        before = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = False
        try:
            return run()
        finally:
            torch.backends.mkldnn.enabled = before

    return evaluate


def explicit(case: Case, way: str | None = None) -> tuple[ExplicitMatching, Callable[[], object]]:
    """Explicit mode, set up, and one evaluation of all recoveries."""
    problem = case.problem()
    matching = ExplicitMatching(problem, ways=way)
    matching.network.check(case.inputs)
    labels = case.labels

    def evaluate() -> object:
        return matching.value_and_gradient(case.inputs, labels)

    evaluate()
    return matching, evaluate


def measure(name: str, rounds: int, *, vmap: bool) -> dict:
    """Milliseconds for each evaluation and recovery, ratios over the loop, and the ways that were chosen."""
    case = make_case(name)
    recoveries = case.inputs.shape[0]
    runs = {"fair": fair_loop(case)}
    if any(isinstance(module, nn.Conv2d) for module in case.model.modules()):
        runs["fair, no oneDNN"] = _without_onednn(runs["fair"])
    units = dict.fromkeys(runs, 1)
    chosen, runs["explicit"] = explicit(case)
    for way in FORCED.get(name, ()):
        runs[f"explicit, {way}"] = explicit(case, way)[1]
    if vmap:
        matching = VmapMatching(case.problem())
        runs["vmap"] = lambda: matching.value_and_gradient(case.inputs, case.labels)
    seconds = time_in_turns(runs, rounds=rounds)
    each = {k: [value / units.get(k, recoveries) * 1e3 for value in v] for k, v in seconds.items()}
    faster = {peer: {k: ratio(each[peer], v) for k, v in each.items() if k not in units} for peer in units}
    return {
        "recoveries": recoveries,
        "milliseconds": {k: quantiles(v) for k, v in each.items()},
        "times faster": faster,
        "bars": BARS[name],
        "ways": {f"{r['layer']}.{r['parameter']}": r["way"] for r in chosen.describe()},
    }


def scaling(rounds: int, name: str = "LeNet") -> dict:
    """Milliseconds for each evaluation and recovery over R."""
    runs = {str(r): explicit(make_case(name, r))[1] for r in SCALING}
    seconds = time_in_turns(runs, rounds=rounds)
    return {r: quantiles([value / int(r) * 1e3 for value in v]) for r, v in seconds.items()}


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _peak(name: str, recoveries: int | None, way: str | None) -> float:
    """MiB for each recovery that an evaluation needs at its peak; run in a fresh process."""
    case = make_case(name, recoveries)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    if way == "fair":
        fair_loop(case)()
    else:
        explicit(case, way)[1]()
    count = 1 if way == "fair" else case.inputs.shape[0]
    return (_status("VmHWM") - before) / count / 2**20


def memory(name: str, recoveries: int | None = None, way: str | None = None) -> float:
    """`_peak` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.search.step_speed",
        "--peak",
        name,
        str(recoveries or 0),
        way or "",
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), help="beginnings of names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-scaling", action="store_true")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "step_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        name, recoveries, way = options.peak
        print(_peak(name, int(recoveries) or None, way or None))
        return
    report: dict = {"benchmark": "step_speed", **machine(), "rounds": options.rounds}
    names = [n for n in NETWORKS if any(n.startswith(begin) for begin in options.networks)]
    for name in names:
        report[name] = found = measure(name, options.rounds, vmap=name in ("LeNet", "transformer, 2 layers"))
        ways = ("fair", None, *FORCED.get(name, ()))
        found["peak MiB for each recovery"] = {w or "explicit": memory(name, way=w) for w in ways}
        _show(name, found)
    if "LeNet" in names and not options.no_scaling:
        report["LeNet scaling, milliseconds"] = table = scaling(options.rounds)
        report["LeNet scaling, peak MiB for each recovery"] = peaks = {
            str(r): memory("LeNet", r) for r in SCALING
        }
        print("LeNet, ms and MiB for each evaluation and recovery")
        for r in SCALING:
            print(f"  R={r:<5} {table[str(r)]['q50']:8.3f} ms  {peaks[str(r)]:8.2f} MiB")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


def _show(name: str, found: dict) -> None:
    print(f"{name}, R={found['recoveries']}")
    for run, value in found["milliseconds"].items():
        ratios = "  ".join(
            f"{peers[run]['q50']:7.2f} x {peer}"
            for peer, peers in found["times faster"].items()
            if run in peers
        )
        bar = f"  (bar {found['bars'][run]})" if run in found["bars"] else ""
        print(f"  {run:20} {value['q50']:9.3f} ms  {ratios}{bar}")
    peaks = ", ".join(f"{k} {v:.1f}" for k, v in found["peak MiB for each recovery"].items())
    print(f"  peak MiB for each recovery: {peaks}")


if __name__ == "__main__":
    main()
