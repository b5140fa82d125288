"""How well the distance tells success: thresholds for `sapag_fast/certificates.json`, and their precision.

Every family of tasks is measured twice, on victims and networks that have nothing in common. The first half
sets the threshold: the largest distance below which at least 99.5 % of the searches had succeeded, provided
that the lower end of the 95 % interval is at least 95 %. The second half tells its precision on tasks it was
not set on. A search is one restart; it succeeds if every image's mean squared error is below 0.01.

MNIST: victims from images 0..999 and 1000..1999 of the file, networks trained on 2000..3999. CIFAR-10: from
each class's training images 0..24 and 25..49, trained on 50..99. Trained networks: 20 epochs of Adam.

    python -m benchmarks.certificate --data DATA [--only NAME]
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
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.interleaved import machine
from sapag_fast.certificate import FILE
from sapag_fast.data import read_dataset, read_mnist
from sapag_fast.metrics import assign
from sapag_fast.models import make_model
from sapag_fast.recover import recover
from sapag_fast.training import train_to

PRECISION, LOWEST = 0.995, 0.95
SUCCESS = 1e-2
EPOCHS = 20
RESULTS = Path(__file__).parent / "results" / "certificate.json"
SIX = ("default", "uniform", "normal.1", "normal.5", "xavier", "kaiming")


@dataclass(frozen=True)
class Search:
    """One restart: where it ended, whether there was the truth."""

    victim: int
    distance: float
    success: bool


@dataclass(frozen=True)
class Tasks:
    """A family to be measured: networks x initialisations x phases, some victims each."""

    name: str
    data: str
    networks: tuple[tuple[str, tuple[str, ...]], ...]
    batch_sizes: tuple[int, ...] = (1,)
    kinked: bool = False
    victims: int = 18
    restarts: int = 3


FAMILIES = (
    Tasks("mnist", "mnist", (("lenet", SIX), ("lenet4", ("default",)), ("mlp", ("default", "kaiming")))),
    Tasks("cifar", "cifar", (("lenet", SIX),), victims=10, restarts=2),
    Tasks("mnist-batch", "mnist", (("lenet", SIX),), batch_sizes=(2, 4), victims=5, restarts=2),
    Tasks("cifar-relu", "cifar", (("convnet", ("default", "kaiming")),), kinked=True, victims=10, restarts=2),
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


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """``[V, *parameter shape]`` of ``images [V, B, *input_shape]``."""
    parameters = tuple(model.parameters())
    rows = [
        torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
        for x, y in zip(images, labels, strict=True)
    ]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


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


def measure(tasks: Tasks, folder: Path, half: int) -> tuple[list[Search], list[dict[str, Any]], dict]:
    """All searches of one half, a line a cell, and what an attack knows of the tasks."""
    images, labels, known, known_labels = victims_of(tasks.data, folder, half)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(half))
    searches, lines, seen = [], [], {}
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
            model, trained = train_to(model, known, known_labels, epochs=EPOCHS, seed=half)
            accuracy = trained.accuracy
        rows = order[(torch.arange(taken, taken + tasks.victims * size)) % len(order)].view(-1, size)
        taken += tasks.victims * size
        found = recover(
            model,
            gradients(model, images[rows], labels[rows]),
            shape,
            batched=True,
            batch_size=size,
            restarts=tasks.restarts,
            stop_certified=False,
            seed=half,
        )
        mine = [
            Search(
                victim=len(lines) * tasks.victims + victim,
                distance=float(found.restarts.distance[victim, k]),
                success=succeeded(found.restarts.inputs[victim, k], images[rows[victim]]),
            )
            for victim in range(tasks.victims)
            for k in range(tasks.restarts)
        ]
        searches += mine
        layers = len({name.rpartition(".")[0] for name, _ in model.named_parameters()})
        told = {"layers": layers, "batch_sizes": size, "sides": shape[1], "channels": shape[0]}
        for key, value in told.items():
            seen.setdefault(key, set()).add(value)
        recipe = found.recipe
        seen.setdefault("distance", set()).add((recipe.distance, recipe.bandwidth or 1.0))
        line = {
            "network": network,
            "initialisation": initialisation,
            "phase": phase,
            "accuracy": accuracy,
            "batch_size": size,
            "recipe": recipe.name,
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
    return searches, lines, seen


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


def largest_threshold(searches: Sequence[Search]) -> float | None:
    """The largest distance that certifies, rounded down to two digits; None where there is none."""
    distances = sorted({search.distance for search in searches if math.isfinite(search.distance)})
    for distance in reversed(distances):
        digits = 10.0 ** (math.floor(math.log10(distance)) - 1) if distance > 0 else 1.0
        threshold = float(f"{math.floor(distance / digits) * digits:.1e}")
        found = figures(searches, threshold)
        if found["below"] and found["precision"] >= PRECISION and found["interval"][0] >= LOWEST:
            return threshold
    return None


def family(tasks: Tasks, searches: list[Search], seen: dict, threshold: float | None) -> dict[str, Any]:
    """The entry of certificates.json."""
    ((distance, bandwidth),) = seen["distance"]
    networks = ", ".join(f"{network} ({', '.join(initial)})" for network, initial in tasks.networks)
    spans = {key: [min(seen[key]), max(seen[key])] for key in ("sides", "batch_sizes", "layers")}
    return {
        "name": tasks.name,
        "kinked": tasks.kinked,
        "distance": distance,
        "bandwidth": bandwidth,
        "channels": next(iter(seen["channels"])),
        **spans,
        "threshold": threshold,
        **figures(searches, threshold),
        "measured_on": f"{tasks.data.upper()}, {networks}, untrained and after {EPOCHS} epochs; "
        f"{len({search.victim for search in searches})} victims",
    }


def winners(searches: Sequence[Search]) -> list[Search]:
    """Of each victim the search with the lowest distance."""
    best: dict[int, Search] = {}
    for search in searches:
        if search.victim not in best or search.distance < best[search.victim].distance:
            best[search.victim] = search
    return list(best.values())


def replaced(path: Path, key: str, entry: dict[str, Any], **content: Any) -> None:
    """Put the entry into the list at `key`, in place of the one of its name."""
    kept = json.loads(path.read_text(encoding="utf-8"))[key] if path.exists() else []
    entries = {old["name"]: old for old in kept} | {entry["name"]: entry}
    ordered = [entries[tasks.name] for tasks in FAMILIES if tasks.name in entries]
    path.write_text(json.dumps({**content, key: ordered}, indent=1) + "\n", encoding="utf-8")


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
        set_on, lines, seen = measure(tasks, options.data, 0)
        threshold = largest_threshold(set_on)
        entry = family(tasks, set_on, seen, threshold)
        others, other_lines, _ = measure(tasks, options.data, 1)
        report = {
            "name": tasks.name,
            **machine(),
            "threshold": threshold,
            "set on": {**figures(set_on, threshold), "cells": lines},
            "held out": {
                **figures(others, threshold),
                "victims": figures(winners(others), threshold),
                "cells": other_lines,
            },
        }
        replaced(FILE, "families", entry)
        replaced(RESULTS, "families", report, benchmark="certificate", success=f"mse < {SUCCESS}")
        print(f"{tasks.name}: threshold {threshold}")
        for name, part in (("set on", set_on), ("held out", others), ("winners held out", winners(others))):
            print(f"  {name}: {figures(part, threshold)}")


if __name__ == "__main__":
    main()
