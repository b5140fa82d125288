"""How well the distance tells success: thresholds for certificates.json, and their precision.

Every family of tasks is measured twice, on victims and networks that have nothing in common. The first half
sets the threshold: the largest distance below which at least 99.5 % of the searches had succeeded, and 98 %
in every cell (network, initialisation, phase, batch size), provided that the lower end of the 95 % interval
is at least 95 %; and no larger than it takes to certify 99 % of the successes, since where hardly a search
fails nothing else bounds it. The second half tells its precision on tasks it was not set on. Networks of
different numbers of layers are families of their own. A search is one restart; it succeeds if every image's
mean squared error is below 0.01.

MNIST: victims from images 0..999 and 1000..1999 of the file, networks trained on 2000..3999. CIFAR-10: from
each class's training images 0..24 and 25..49, trained on 50..99. Trained networks: 20 epochs of Adam.

    python -m benchmarks.recovery.certificate --data DATA [--only NAME]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.shared.interleaved import machine
from benchmarks.shared.victims import SUCCESS, shared_gradients
from sapag_fast.clients.training import Descent, train_to
from sapag_fast.data import read_dataset, read_mnist
from sapag_fast.models import make_model
from sapag_fast.recovery.certificate import FILE
from sapag_fast.recovery.recover import recover
from sapag_fast.reports.metrics import assign

PRECISION, OF_A_CELL, LOWEST = 0.995, 0.98, 0.95
COVERED = 0.99
EPOCHS = 20
SIX = ("default", "uniform", "normal.1", "normal.5", "xavier", "kaiming")


@dataclass(frozen=True)
class Search:
    """One restart: where it ended, whether there was the truth."""

    cell: int
    victim: int
    distance: float
    success: bool


@dataclass(frozen=True)
class Tasks:
    """Families to be measured together: networks x initialisations x phases, some victims each."""

    name: str
    data: str
    networks: tuple[tuple[str, tuple[str, ...]], ...]
    batch_sizes: tuple[int, ...] = (1,)
    piecewise_linear: bool = False
    victims: int = 18
    restarts: int = 3


FAMILIES = (
    Tasks("mnist", "mnist", (("lenet", SIX), ("lenet4", ("default",)), ("mlp", ("default", "kaiming")))),
    Tasks("cifar", "cifar", (("lenet", SIX),), victims=10, restarts=2),
    Tasks("mnist-batch", "mnist", (("lenet", SIX),), batch_sizes=(2, 4), victims=5, restarts=2),
    Tasks(
        "cifar-relu",
        "cifar",
        (("convnet", ("default", "kaiming")),),
        piecewise_linear=True,
        victims=10,
        restarts=2,
    ),
)


def victims_of(data: str, folder: Path, half: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Victims' images and labels of a half (0 or 1), and those that the networks train on."""
    if data == "mnist":
        mine = read_mnist(folder / "mnist", first=1000 * half, count=1000, classes=10)
        return *mine, *read_mnist(folder / "mnist", first=2000, count=2000, classes=10)
    images, labels = read_dataset(folder / "cifar10", kind="folders", split="train")
    images, labels = images.view(10, 100, *images.shape[1:]), labels.view(10, 100)
    mine, theirs = slice(25 * half, 25 * half + 25), slice(50, 100)
    # Image by image through the classes, so that any few in a row are of different ones.
    turned = (images[:, mine].transpose(0, 1).flatten(0, 1), labels[:, mine].T.flatten())
    return *turned, images[:, theirs].flatten(0, 1), labels[:, theirs].flatten()


def succeeded(found: Tensor, truth: Tensor) -> bool:
    """Whether every image of ``[B, *input_shape]`` is there, in any order."""
    if not torch.isfinite(found).all():
        return False
    errors = (found.clamp(0, 1) - truth[assign(found, truth)]).square().flatten(1).mean(1)
    return bool((errors < SUCCESS).all())


def cells(tasks: Tasks) -> Iterator[tuple[str, str, str, int]]:
    """Network, initialisation, phase and batch size of every cell."""
    for network, initialisations in tasks.networks:
        yield from product((network,), initialisations, ("untrained", "trained"), tasks.batch_sizes)


def measure(tasks: Tasks, folder: Path, half: int) -> tuple[list[Search], list[dict[str, Any]]]:
    """All searches of one half, and a line a cell."""
    images, labels, known, known_labels = victims_of(tasks.data, folder, half)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(half))
    searches, lines = [], []
    taken = 0
    for network, initialisation, phase, size in cells(tasks):
        began = time.perf_counter()
        shape = tuple(images.shape[1:])
        model = make_model(
            network,
            initialisation=initialisation,
            seed=1000 * half + len(lines),
            channels=shape[0],
            image_size=shape[1],
        )
        accuracy = None
        if phase == "trained":
            model, trained = train_to(model, known, known_labels, epochs=EPOCHS, descent=Descent(seed=half))
            accuracy = trained.accuracy
        rows = order[(torch.arange(taken, taken + tasks.victims * size)) % len(order)].view(-1, size)
        taken += tasks.victims * size
        found = recover(
            model,
            shared_gradients(model, images[rows], labels[rows]),
            shape,
            batched=True,
            batch_size=size,
            restarts=tasks.restarts,
            stop_certified=False,
            seed=half,
        )
        mine = [
            Search(
                cell=len(lines),
                victim=len(lines) * tasks.victims + victim,
                distance=float(found.restarts.distance[victim, k]),
                success=succeeded(found.restarts.inputs[victim, k], images[rows[victim]]),
            )
            for victim in range(tasks.victims)
            for k in range(tasks.restarts)
        ]
        searches += mine
        recipe = found.recipe
        line = {
            "network": network,
            "initialisation": initialisation,
            "phase": phase,
            "accuracy": accuracy,
            "batch_size": size,
            "layers": len({name.rpartition(".")[0] for name, _ in model.named_parameters()}),
            "input_shape": list(shape),
            "recipe": recipe.name,
            "distance": [recipe.distance, recipe.bandwidth or 1.0],
            "searches": len(mine),
            "success": sum(search.success for search in mine) / len(mine),
            "largest distance of a success": max((s.distance for s in mine if s.success), default=None),
            "least distance of a failure": min((s.distance for s in mine if not s.success), default=None),
            "seconds": round(time.perf_counter() - began, 1),
        }
        lines.append(line)
        print(
            f"{tasks.name} {('set on', 'held out')[half]}: {network} {initialisation} {phase} B={size}: "
            f"success {line['success']:.2f}, distances of successes up to "
            f"{line['largest distance of a success'] or math.nan:.2g}, of failures from "
            f"{line['least distance of a failure'] or math.nan:.2g}, {line['seconds']} s",
            flush=True,
        )
    return searches, lines


def figures(searches: Sequence[Search], threshold: float | None) -> dict[str, Any]:
    """How many are at the threshold or below, how many of them succeeded, precision and interval."""
    below = [search.success for search in searches if threshold is not None and search.distance <= threshold]
    hits = sum(below)
    interval = binomtest(hits, len(below)).proportion_ci(method="wilson") if below else None
    return {
        "searches": len(searches),
        "below": len(below),
        "hits": hits,
        "precision": hits / len(below) if below else None,
        "interval": [float(interval.low), float(interval.high)] if interval else None,
    }


def is_safe(searches: Sequence[Search], threshold: float) -> bool:
    """Whether precision and interval are good enough over all cells, and the precision in each."""
    found = figures(searches, threshold)
    if not found["below"] or found["precision"] < PRECISION or found["interval"][0] < LOWEST:
        return False
    cells = {search.cell for search in searches}
    alone = (figures([s for s in searches if s.cell == cell], threshold)["precision"] for cell in cells)
    return all(precision is None or precision >= OF_A_CELL for precision in alone)


def largest_threshold(searches: Sequence[Search]) -> float | None:
    """The largest distance that certifies, rounded down to two digits; None where there is none."""
    good = sorted(search.distance for search in searches if search.success)
    enough = good[math.ceil(COVERED * len(good)) - 1] if good else 0.0
    finite = {search.distance for search in searches if 0.0 < search.distance <= enough}
    for distance in sorted(finite, reverse=True):
        digits = 10.0 ** (math.floor(math.log10(distance)) - 1)
        threshold = float(f"{math.floor(distance / digits) * digits:.1e}")
        if is_safe(searches, threshold):
            return threshold
    return None


def family(
    tasks: Tasks, searches: Sequence[Search], lines: Sequence[dict[str, Any]], threshold: float | None
) -> dict[str, Any]:
    """The entry of certificates.json."""
    ((distance, bandwidth),) = {tuple(line["distance"]) for line in lines}
    ((channels, side, _),) = {tuple(line["input_shape"]) for line in lines}
    sizes = sorted({line["batch_size"] for line in lines})
    measured = dict.fromkeys(f"{line['network']} ({line['initialisation']})" for line in lines)
    return {
        "name": name_of(tasks, lines),
        "piecewise_linear": tasks.piecewise_linear,
        "distance": distance,
        "bandwidth": bandwidth,
        "channels": channels,
        "sides": [side, side],
        "batch_sizes": [sizes[0], sizes[-1]],
        "layers": [lines[0]["layers"]] * 2,
        "threshold": threshold,
        **figures(searches, threshold),
        "measured_on": f"{tasks.data.upper()}, {', '.join(measured)}, untrained and after {EPOCHS} epochs; "
        f"{len({search.victim for search in searches})} victims",
    }


def name_of(tasks: Tasks, lines: Sequence[dict[str, Any]]) -> str:
    """A family's name; `lines` are its cells."""
    return f"{tasks.name}, {lines[0]['layers']} layers"


def part_of(
    searches: Sequence[Search], lines: Sequence[dict[str, Any]], layers: int
) -> tuple[list[Search], list[dict[str, Any]]]:
    """Those on networks of so many layers."""
    mine = [search for search in searches if lines[search.cell]["layers"] == layers]
    return mine, [line for line in lines if line["layers"] == layers]


def winners(searches: Sequence[Search]) -> list[Search]:
    """Of each victim the search with the lowest distance."""
    best: dict[int, Search] = {}
    for search in searches:
        if search.victim not in best or search.distance < best[search.victim].distance:
            best[search.victim] = search
    return list(best.values())


def replaced(path: Path, entries: Sequence[dict[str, Any]], **content: Any) -> None:
    """Put the entries into the file's list of families, in place of those of their names."""
    kept = json.loads(path.read_text(encoding="utf-8"))["families"] if path.exists() else []
    known = {entry["name"]: entry for entry in (*kept, *entries)}
    content["families"] = [known[name] for name in sorted(known)]
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist/ and cifar10/")
    parser.add_argument("--only", nargs="+", choices=[tasks.name for tasks in FAMILIES], help="families")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for tasks in FAMILIES:
        if options.only and tasks.name not in options.only:
            continue
        halves = [measure(tasks, options.data, half) for half in (0, 1)]
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
        replaced(FILE, families)
        replaced(RESULTS / "certificate.json", reports, benchmark="certificate", success=f"mse < {SUCCESS}")


if __name__ == "__main__":
    main()
