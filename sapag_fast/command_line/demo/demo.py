"""The demo: real images recovered from the gradients of a small untrained network, by SAPAG and by DLG as
published.

The network is the LeNet with sigmoids that the literature attacks, one victim image a gradient, without any
defence; each cell is an image source and a weight initialisation. These are settings in which the attack is
known to work: they show what it does there, not that every network leaks like this.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast import data
from sapag_fast.command_line.demo.dlg import deep_leakage
from sapag_fast.models import LeNet, initialise
from sapag_fast.recovery.recover import recover
from sapag_fast.reports.metrics import SUCCESS_PSNR
from sapag_fast.reports.report import Finished, Report

SAPAG, DLG = "SAPAG", "DLG"
RESTARTS = 2
SIZE = {"digits": 28, "faces": 32, "photographs": 32}
CLASSES = {"digits": 10, "faces": 100, "photographs": 10}
INITIALISATIONS = ("uniform", "normal.1", "xavier", "default")
VICTIMS = 3


@dataclass(frozen=True)
class Cell:
    source: str
    initialisation: str

    @property
    def title(self) -> str:
        return f"{self.source}, {self.initialisation}"

    @property
    def stem(self) -> str:
        return f"{self.source}-{self.initialisation.replace('.', '')}"


CELLS = tuple(Cell(source, initialisation) for source in SIZE for initialisation in INITIALISATIONS)
QUICK_CELLS = tuple(Cell(source, "uniform") for source in SIZE)


def settings(seed: int, quick: bool) -> dict[str, Any]:
    """What ``results.json`` records of the demo."""
    return {
        "network": "LeNet, sigmoid, untrained",
        "cells": [cell.title for cell in cells(quick)],
        "victims_a_cell": VICTIMS,
        "sapag_restarts": RESTARTS,
        "dlg_starts": 1,
        "dlg_evaluations": "as many as SAPAG took, over all its restarts",
        "success_psnr": SUCCESS_PSNR,
        "cpu_threads": 1,
        "seed": seed,
        "quick": quick,
    }


def cells(quick: bool) -> tuple[Cell, ...]:
    return QUICK_CELLS if quick else CELLS


def run(report: Report, *, seed: int, quick: bool, console: Console) -> None:
    """Attack every cell with both methods and add the results to the report, cell by cell."""
    chosen = cells(quick)
    with one_thread(), progress_bar(console, len(chosen) * (1 + VICTIMS)) as advance:
        for number, cell in enumerate(chosen):
            images, labels = (part.to(report.device) for part in victims(cell))
            shape, classes = images.shape[1:], CLASSES[cell.source]
            net = LeNet(channels=shape[0], image_size=shape[1], classes=classes)
            model = initialise(net, cell.initialisation, seed=seed + number).to(report.device)
            gradients = [client_gradient(model, images[i : i + 1], labels[i : i + 1]) for i in range(VICTIMS)]

            advance(f"{cell.title}: {SAPAG}", 0)
            attacked = sapag(cell, model, gradients, images, labels, seed)
            report.add(*attacked)
            if any(entry.status == "interrupted" for entry in attacked):
                raise KeyboardInterrupt  # recover() swallows Ctrl-C to hand back its best iterates
            advance(f"{cell.title}: {DLG}", 1)
            for position, gradient in enumerate(gradients):
                budget = attacked[position].evaluations
                report.add(dlg(cell, position, model, gradient, images, labels, budget, seed))
                advance(f"{cell.title}: {DLG}", 1)


def victims(cell: Cell) -> data.Images:
    """Images and labels of a cell; cells of one source share none."""
    place = INITIALISATIONS.index(cell.initialisation) * VICTIMS
    images, labels = data.SOURCES[cell.source](place + VICTIMS, SIZE[cell.source])
    return images[place:], labels[place:]


def sapag(
    cell: Cell,
    model: nn.Module,
    gradients: Sequence[Sequence[Tensor]],
    images: Tensor,
    labels: Tensor,
    seed: int,
) -> list[Finished]:
    """All victims of a cell and their restarts in one batch, labels inferred, all else by default."""
    target = [torch.stack(layer) for layer in zip(*gradients, strict=True)]
    began = perf_counter()
    result = recover(model, target, images.shape[1:], restarts=RESTARTS, seed=seed, batched=True)
    inputs = result.inputs.cpu()
    seconds = (perf_counter() - began) / len(images)
    return [
        Finished(
            name=f"{cell.stem}-{position:02d}-sapag",
            group=cell.title,
            method=SAPAG,
            inputs=inputs[position],
            labels=result.labels[position].cpu(),
            distance=float(result.distance[position]),
            evaluations=int(result.evaluations[position]),
            seconds=seconds,
            status=result.status[position],
            truth=images[position : position + 1].cpu(),
            true_labels=labels[position : position + 1].cpu(),
        )
        for position in range(len(images))
    ]


def dlg(
    cell: Cell,
    position: int,
    model: nn.Module,
    gradient: Sequence[Tensor],
    images: Tensor,
    labels: Tensor,
    evaluations: int,
    seed: int,
) -> Finished:
    """One victim, one start as published, and as many evaluations as SAPAG took."""
    result = deep_leakage(
        model,
        gradient,
        images.shape[1:],
        CLASSES[cell.source],
        evaluations=evaluations,
        seed=seed + position,
    )
    return Finished(
        name=f"{cell.stem}-{position:02d}-dlg",
        group=cell.title,
        method=DLG,
        inputs=result.input.cpu(),
        labels=result.labels.cpu(),
        distance=result.distance,
        evaluations=result.evaluations,
        seconds=result.seconds,
        status=result.status,
        truth=images[position : position + 1].cpu(),
        true_labels=labels[position : position + 1].cpu(),
    )


def client_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(F.cross_entropy(model(images), labels), tuple(model.parameters()))


def summary(finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """One entry a cell and method, then one a method over all cells: medians, and seconds a victim."""
    groups = list(dict.fromkeys(entry.group for entry in finished))
    lines = []
    for group in (*groups, "all"):
        for method in (SAPAG, DLG):
            entries = [
                entry for entry in finished if entry.method == method and group in (entry.group, "all")
            ]
            if entries:
                lines.append(
                    {
                        "cell": group,
                        "method": method,
                        "victims": len(entries),
                        "recovered": sum(entry.success for entry in entries),
                        "median_psnr": median(entry.scores[0].psnr for entry in entries),
                        "median_evaluations": median(entry.evaluations for entry in entries),
                        "seconds_a_victim": sum(entry.seconds for entry in entries) / len(entries),
                    }
                )
    return lines


def summary_table(finished: Sequence[Finished]) -> Table:
    table = Table(title=f"Recovered: PSNR of at least {SUCCESS_PSNR:.0f} dB. LeNet with sigmoids, untrained")
    table.add_column("images, weights", no_wrap=True)
    table.add_column("method")
    for heading in ("recovered", "PSNR dB", "evals", "s/victim"):
        table.add_column(heading, justify="right")
    for line in summary(finished):
        table.add_row(
            line["cell"],
            line["method"],
            f"{line['recovered']}/{line['victims']}",
            f"{line['median_psnr']:.1f}",
            f"{line['median_evaluations']:.0f}",
            f"{line['seconds_a_victim']:.2f}",
            end_section=line["method"] == DLG,
        )
    return table


@contextmanager
def one_thread() -> Iterator[None]:
    """These layers are too small to share out, and threads that wait for a busy core cost seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def progress_bar(console: Console, total: int) -> Iterator[Callable[[str, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda what, done: bar.update(task, description=what, advance=done)
