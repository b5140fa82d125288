"""Runs cells, keeps each one's result in a file of its own, and runs none twice."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import FrameType

import torch

from benchmarks.claims.cell import Cell
from benchmarks.shared.interleaved import machine, source_commit
from sapag_fast.files.output import replacing

__all__ = ["all_cells", "is_done", "read_result", "run_cell", "run_cells", "select"]

DIGITS = 5
"""Significant digits that a file keeps of a number."""


def all_cells(modules: Iterable[str], data: Path, quick: bool) -> list[Cell]:
    """The cells of these modules, in their order.

    Raises
    ------
    ValueError
        When two cells have one name.
    """
    cells = [cell for name in modules for cell in import_module(name).cells(data, quick)]
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        raise ValueError(f"cells: {max(names, key=names.count)} stands for more than one cell")
    return cells


def select(cells: Sequence[Cell], pattern: str | None) -> list[Cell]:
    """Those whose name or group the shell pattern matches, or contains; all of them, if it is None."""
    if pattern is None:
        return list(cells)
    return [c for c in cells if fnmatch.fnmatch(c.name, pattern) or pattern in (c.name, c.group)]


def _path(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.name}.json"


def read_result(path: Path) -> dict | None:
    """A result file's contents; None where there is none, or none that is whole."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "settings" in found else None


def is_done(cell: Cell, folder: Path) -> bool:
    """Whether the cell's file holds a result with the cell's settings."""
    found = read_result(_path(folder, cell))
    return found is not None and found["settings"] == json.loads(json.dumps(cell.settings))


def run_cell(cell: Cell, folder: Path, commit: str) -> float:
    """Run one cell of this commit and write its file, at once or not at all; returns the seconds taken."""
    wall, cpu = time.perf_counter(), time.process_time()
    with _uninterrupted():
        result = cell.run()
    seconds = time.perf_counter() - wall
    victims = result["victims"]
    report = {
        "name": cell.name,
        "group": cell.group,
        "settings": cell.settings,
        **machine(),
        "commit": commit,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": seconds,
        "cpu seconds": time.process_time() - cpu,
        "evaluations": sum(victim.get("evaluations", 0) for victim in victims),
        **result,
    }
    with replacing(_path(folder, cell)) as temporary:
        temporary.write_text(_text(report))
    return seconds


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Raises KeyboardInterrupt at the end if Ctrl-C came, even if the block took it for the end of its work:
    an attack that is interrupted hands out what it has, which is no cell's result.
    """
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not ignored, as in the background
        signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _text(report: Mapping[str, object]) -> str:
    """JSON with one line for each entry, and for each victim."""
    lines = []
    for key, value in report.items():
        if key == "victims":
            rows = ",\n".join(f"  {json.dumps(_plain(victim))}" for victim in value)
            lines.append(f' "victims": [\n{rows}\n ]')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(_plain(value))}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _plain(value: object) -> object:
    """Numbers to a few digits, and null for those that JSON does not have."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: entry if key == "settings" else _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    threads: int = 1,
    workers: int = 1,
    modules: Sequence[str] = (),
    data: Path | None = None,
    quick: bool = False,
    say: Callable[[str], object] = print,
) -> list[str]:
    """Run the cells that are not done; returns the names of those that failed.

    Parameters
    ----------
    cells : sequence of Cell
    folder : Path
        Of the result files; made if need be.
    threads : int
        Of torch, in each process.
    workers : int
        More than one: cells run in so many processes, which make them again from `modules`, `data` and
        `quick`.
    say : callable
        Given a line about each cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [cell for cell in cells if not is_done(cell, folder)]
    say(f"{len(cells)} cells, {len(cells) - len(waiting)} done before")
    told, commit = _Tally(len(waiting), say), source_commit()  # the code that has been read by now
    if workers == 1:
        torch.set_num_threads(threads)
        for cell in waiting:
            try:
                told.done(cell.name, run_cell(cell, folder, commit))
            except Exception as error:  # one cell's failure must not cost the others
                told.failed(cell.name, error)
        return told.failures
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: dict[Future[float], str] = {
            pool.submit(
                _run_named, cell.name, folder, commit, tuple(modules), data, quick, threads
            ): cell.name
            for cell in waiting
        }
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    error = future.exception()
                    told.failed(name, error) if error else told.done(name, future.result())
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return told.failures


def _run_named(
    name: str, folder: Path, commit: str, modules: Sequence[str], data: Path, quick: bool, threads: int
) -> float:
    """In a process of its own: make the cells, and run the one of this name."""
    torch.set_num_threads(threads)
    try:
        cell = next(cell for cell in all_cells(modules, data, quick) if cell.name == name)
        return run_cell(cell, folder, commit)
    except KeyboardInterrupt:
        os._exit(130)  # a worker that came back would take the next cell


class _Tally:
    """Tells how far the run has come."""

    def __init__(self, cells: int, say: Callable[[str], object]) -> None:
        self.cells, self.say, self.ended = cells, say, 0
        self.failures: list[str] = []

    def done(self, name: str, seconds: float) -> None:
        self.ended += 1
        self.say(f"{self.ended}/{self.cells} {name}: {seconds:.1f} s")

    def failed(self, name: str, error: BaseException) -> None:
        self.ended += 1
        self.failures.append(name)
        self.say(f"{self.ended}/{self.cells} {name}: failed: {type(error).__name__}: {error}")
