"""The demo: images recovered from gradients of a small untrained network, by SAPAG and by DLG as published.

The network is the LeNet with sigmoids that the literature attacks, one victim image a gradient, without any
defence; each cell is an image source and a weight initialisation. These are settings in which the attack is
known to work: they show what it does there, not that every network leaks like this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

from sapag_fast import data
from sapag_fast.clients.gradient import client_gradient
from sapag_fast.command_line.demo.dlg import deep_leakage
from sapag_fast.command_line.session import chosen_device, keep_results
from sapag_fast.models import LeNet, initialise
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import Recovery
from sapag_fast.reports.finished import Finished, scored
from sapag_fast.reports.metrics import SUCCESS_MEANS, SUCCESS_PSNR
from sapag_fast.reports.report import Report
from sapag_fast.runtime.screen import Screen
from sapag_fast.runtime.streams import say
from sapag_fast.search.interrupted import Interrupted

__all__ = ["run"]

SAPAG, DLG = "SAPAG", "DLG"
RESTARTS = 2
SIZE = {"digits": 28, "faces": 32, "photographs": 32}
CLASSES = {"digits": 10, "faces": 100, "photographs": 10}
INITIALISATIONS = ("uniform", "normal.1", "xavier", "default")
VICTIMS = 3


@dataclass(frozen=True)
class Cell:
    """Victims of one image source, and the weights of their network.

    Attributes
    ----------
    source : str
        One of `data.SOURCES`.
    initialisation : str
    """

    source: str
    initialisation: str

    @property
    def title(self) -> str:
        """As tables have it."""
        return f"{self.source}, {self.initialisation}"

    @property
    def stem(self) -> str:
        """As file names have it."""
        return f"{self.source}-{self.initialisation.replace('.', '')}"


CELLS = tuple(Cell(source, initialisation) for source in SIZE for initialisation in INITIALISATIONS)
QUICK_CELLS = tuple(Cell(source, "uniform") for source in SIZE)


@dataclass(frozen=True)
class Attacked:
    """A cell's network and victims, V of them.

    Attributes
    ----------
    cell : Cell
    model : nn.Module
    images : Tensor
        ``[V, C, H, W]``.
    labels : Tensor
        ``[V]``.
    gradients : list of tuple of Tensor
        V gradients.
    """

    cell: Cell
    model: nn.Module
    images: Tensor
    labels: Tensor
    gradients: list[tuple[Tensor, ...]]


def run(*, output: Path, overwrite: bool, seed: int, device: str | None, quick: bool) -> None:
    """Do what ``sapag-fast demo`` does, given its options."""
    console, where = Screen(), chosen_device(device)
    report = Report(output, "demo", settings(seed, quick), where, overwrite=overwrite)

    def work() -> None:
        attack_cells(report, cells(quick), seed, console)

    def show() -> None:
        console.print(summary_table(report.finished))

    keep_results(report, work, show, lambda: {"summary": summary(report.finished)})
    say(f"Images, grid.png and results.json are in {output}.")


def settings(seed: int, quick: bool) -> dict[str, Any]:
    """Tell ``results.json`` how the demo was run."""
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
    """Choose the demo's cells."""
    return QUICK_CELLS if quick else CELLS


def attack_cells(report: Report, chosen: Sequence[Cell], seed: int, console: Screen) -> None:
    """Attack every cell with both methods and add the results to the report, cell by cell."""
    with one_thread(), progress_bar(console, len(chosen) * (1 + VICTIMS)) as advance:
        for number, cell in enumerate(chosen):
            attacked = made(cell, seed + number, report.device)
            advance(f"{cell.title}: {SAPAG}", 0)
            began = perf_counter()
            try:
                ours = sapag(attacked, seed)
            except Interrupted as stop:
                report.add(*reported(attacked, stop.recovery, (perf_counter() - began) / VICTIMS))
                raise
            report.add(*ours)
            advance(f"{cell.title}: {DLG}", 1)
            for position in range(VICTIMS):
                report.add(dlg(attacked, position, ours[position].evaluations, seed))
                advance(f"{cell.title}: {DLG}", 1)


def made(cell: Cell, seed: int, device: torch.device) -> Attacked:
    """Draw a cell's network, and form its victims' gradients."""
    images, labels = (part.to(device) for part in victims(cell))
    net = LeNet(channels=images.shape[1], image_size=images.shape[2], classes=CLASSES[cell.source])
    model = initialise(net, cell.initialisation, seed=seed).to(device)
    gradients = [client_gradient(model, images[i : i + 1], labels[i : i + 1]) for i in range(VICTIMS)]
    return Attacked(cell, model, images, labels, gradients)


def victims(cell: Cell) -> data.Images:
    """Take a cell's images and labels; cells of one source share none."""
    first = INITIALISATIONS.index(cell.initialisation) * VICTIMS
    images, labels = data.SOURCES[cell.source](first + VICTIMS, SIZE[cell.source])
    return images[first:], labels[first:]


def sapag(attacked: Attacked, seed: int) -> list[Finished]:
    """Attack all victims of a cell and their restarts in one batch, labels inferred, all else by default."""
    target = [torch.stack(layer) for layer in zip(*attacked.gradients, strict=True)]
    shape = attacked.images.shape[1:]
    began = perf_counter()
    recovery = recover(attacked.model, target, shape, restarts=RESTARTS, seed=seed, batched=True)
    return reported(attacked, recovery, (perf_counter() - began) / len(attacked.images))


def reported(attacked: Attacked, recovery: Recovery, seconds: float) -> list[Finished]:
    """Score every victim of a cell; `seconds` is the time for each."""
    finished = []
    for position in range(len(attacked.images)):
        entry = scored(
            recovery,
            position,
            f"{attacked.cell.stem}-{position:02d}-sapag",
            seconds=seconds,
            truth=attacked.images[position : position + 1].cpu(),
            true_labels=attacked.labels[position : position + 1].cpu(),
        )
        # The demo is about the images: certificate and recipe have no place beside DLG's results.
        finished.append(replace(entry, group=attacked.cell.title, method=SAPAG, certificate=None, details={}))
    return finished


def dlg(attacked: Attacked, position: int, evaluations: int, seed: int) -> Finished:
    """Attack one victim from one start as published, with as many evaluations as SAPAG took."""
    cell, images, labels = attacked.cell, attacked.images, attacked.labels
    result = deep_leakage(
        attacked.model,
        attacked.gradients[position],
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


def summary(finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """Sum up each cell and method, then each method over all cells: medians, and seconds a victim."""
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
    """Show the summary."""
    table = Table(title=f"Recovered: {SUCCESS_MEANS}. LeNet with sigmoids, untrained")
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
    """Work on one thread.

    These layers are too small to share out, and threads that wait for a busy core cost seconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def progress_bar(console: Screen, total: int) -> Iterator[Callable[[str, int], None]]:
    """Show how far the demo is; yields what takes the present work and how many parts it adds."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda what, done: bar.update(task, description=what, advance=done)
