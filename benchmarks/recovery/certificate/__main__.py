"""The command; see the package's own words."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks import RESULTS
from benchmarks.recovery import certificate
from benchmarks.recovery.certificate.fresh import Fresh, measure_fresh
from benchmarks.recovery.certificate.searches import measure
from benchmarks.recovery.certificate.tasks import FAMILIES, Material, Tasks
from benchmarks.recovery.certificate.thresholds import (
    family,
    figures,
    largest_threshold,
    part_of,
    replaced,
    winners,
)
from benchmarks.shared.interleaved import machine
from benchmarks.shared.victims import SUCCESS
from sapag_fast.recovery.certificate import FILE


def set_thresholds(tasks: Tasks, folder: Path, certificates: Path, results: Path) -> None:
    """Measure both halves, and put the families into the package's certificates and the results."""
    halves = [measure(tasks, Material.read(tasks.data, folder, half)) for half in (0, 1)]
    families, reports = [], []
    for layers in sorted({line["layers"] for line in halves[0][1]}):
        (set_on, lines), (others, other_lines) = (part_of(*half, layers) for half in halves)
        threshold = largest_threshold(set_on)
        families.append(family(tasks, set_on, lines, threshold))
        held_out = figures(others, threshold) | {"victims": figures(winners(others), threshold)}
        reports.append(
            {
                "name": families[-1]["name"],
                **machine(),
                "threshold": threshold,
                "set on": {**figures(set_on, threshold), "cells": lines},
                "held out": {**held_out, "cells": other_lines},
            }
        )
        print(f"{families[-1]['name']}: threshold {threshold}\n  set on: {figures(set_on, threshold)}")
        print(f"  held out: {held_out}", flush=True)
    replaced(certificates, families)
    replaced(results, reports, benchmark="certificate", success=f"mse < {SUCCESS}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=certificate.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/ and cifar10/")
    parser.add_argument("--only", nargs="+", choices=[tasks.name for tasks in FAMILIES], help="families")
    parser.add_argument("--fresh", action="store_true", help="leave thresholds alone, measure certificates")
    parser.add_argument("--victims", type=int, help="of a cell, with --fresh; as many as for thresholds")
    parser.add_argument("--restarts", type=int, default=2, help="of a victim, with --fresh")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = Fresh(options.victims, options.restarts)
    for tasks in FAMILIES:
        if options.only and tasks.name not in options.only:
            continue
        if options.fresh:
            measure_fresh(tasks, options.data, RESULTS / "certificate_fresh.json", settings)
        else:
            set_thresholds(tasks, options.data, FILE, RESULTS / "certificate.json")


if __name__ == "__main__":
    main()
