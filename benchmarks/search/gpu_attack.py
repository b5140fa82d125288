"""Whole attacks on a GPU: our batch, as a captured graph and eagerly, against DLG's loop as published.

One evaluation of every recovery is timed, optimiser included; recoveries an hour are at 300 evaluations each.
The stages of the eager step are timed by events on their own.

    python -m benchmarks.search.gpu_attack --output results.json
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.shared.attack_peers import dlg_loop
from benchmarks.shared.interleaved import machine, quantiles
from benchmarks.shared.step_networks import Case, make_case
from sapag_fast.matching.choose import choose_matching
from sapag_fast.search.basis import make_basis
from sapag_fast.search.loop import Search, run_search
from sapag_fast.search.optimizers.of_recipe import make_optimizer
from sapag_fast.search.recipe import RECIPES

CASES = {"LeNet": (1, 64, 1024, 4096), "ResNet-18, BatchNorm eval": (1, 16, 64)}
EVALUATIONS = 300
RECIPE = replace(RECIPES["smooth"], line_search=None, steps=EVALUATIONS)


def on_gpu(case: Case) -> Case:
    move = [t.cuda() for t in case.target]
    return Case(case.model.cuda(), tuple(move), case.inputs.cuda(), case.label.cuda())


def seconds_of(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def stages(case: Case, rounds: int) -> dict[str, float]:
    """Milliseconds of an eager step's parts, medians by events."""
    recoveries = case.inputs.shape[0]
    problem = case.problem()
    matching = choose_matching(problem, case.inputs, case.labels).matching
    flat = case.inputs.flatten(1)
    optimizer = make_optimizer(RECIPE, recoveries, flat.shape[1], flat)
    parts = {
        "matching": lambda: matching.value_and_gradient(case.inputs, case.labels),
        "optimizer": lambda: optimizer.step(0.1 * torch.randn_like(flat)),
    }
    found: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(rounds + 3):
        for name, part in parts.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            part()
            end.record()
            end.synchronize()
            if turn >= 3:
                found[name].append(start.elapsed_time(end))
    return {"mode": matching.mode, **{name: statistics.median(values) for name, values in found.items()}}


def measure(name: str, recoveries: int, rounds: int, evaluations: int) -> dict:
    case = on_gpu(make_case(name, recoveries))
    matching = choose_matching(case.problem(), case.inputs, case.labels).matching
    shape = tuple(case.inputs.shape[2:])
    search = Search(
        matching,
        case.inputs,
        case.labels,
        replace(RECIPE, steps=evaluations),
        [make_basis("pixel", shape, device=case.inputs.device)],
        bounds=(0.0, 1.0),
        restarts=recoveries,
    )

    def ours(graphs: bool) -> Callable[[], object]:
        return lambda: run_search(search, check_every=evaluations, graphs=graphs)

    def dlg() -> object:
        return dlg_loop(
            case.model, case.target, case.inputs[0], case.label, evaluations=evaluations, published=True
        )

    contenders = {"graph": (ours(True), recoveries), "eager": (ours(False), recoveries), "DLG": (dlg, 1)}
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    torch.cuda.reset_peak_memory_stats()
    for turn in range(rounds + 1):
        for contender, (work, count) in contenders.items():
            each = seconds_of(work) / (evaluations * count)
            if turn:  # the first round warms up
                seconds[contender].append(each)
    hourly = {c: 3600 / (EVALUATIONS * statistics.median(values)) for c, values in seconds.items()}
    return {
        "network": name,
        "recoveries": recoveries,
        "seconds_per_evaluation_and_recovery": {c: quantiles(values) for c, values in seconds.items()},
        "recoveries_per_hour": hourly,
        "times_DLG": {c: hourly[c] / hourly["DLG"] for c in ("graph", "eager")},
        "stages_ms": stages(case, rounds),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
    }


def as_table(rows: list[dict]) -> str:
    head = ["network", "R", "mode", "graph, /h", "eager, /h", "DLG, /h", "graph/DLG", "matching", "optimiser"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        hourly, parts = row["recoveries_per_hour"], row["stages_ms"]
        lines.append(
            [
                row["network"],
                str(row["recoveries"]),
                parts["mode"],
                *(f"{hourly[c]:.0f}" for c in ("graph", "eager", "DLG")),
                f"{row['times_DLG']['graph']:.1f}×",
                f"{parts['matching']:.2f} ms",
                f"{parts['optimizer']:.2f} ms",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON file; a Markdown table goes beside it"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=100, help="of each recovery in each round")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU to measure")
    rows = []
    for name, counts in CASES.items():
        for recoveries in counts:
            rows.append(measure(name, recoveries, options.rounds, options.evaluations))
            torch.cuda.empty_cache()
            # Written after every row: a run that is cut short keeps what it has.
            found = {"machine": machine() | {"gpu": torch.cuda.get_device_name()}, "rows": rows}
            options.output.write_text(json.dumps(found, indent=1) + "\n")
            options.output.with_suffix(".md").write_text(as_table(rows))


if __name__ == "__main__":
    main()
