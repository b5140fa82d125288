"""The output folder of a run: a PNG of every recovered image, a grid, the exact tensors and ``results.json``.

Every file is replaced whole, after every finished victim, so the folder is complete at any moment: an
interrupted run keeps what it has finished, a run that fails at once leaves no folder behind.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sapag_fast.files.names import FileNames
from sapag_fast.files.output import check_output, finite_json, replacing, sweep, versions
from sapag_fast.files.regular import regular_file
from sapag_fast.files.tensors import write_tensors
from sapag_fast.recovery.result import EXACT
from sapag_fast.reports.finished import Finished
from sapag_fast.reports.pictures import Row, grid, is_image, save_picture, to_picture
from sapag_fast.runtime.extras import needs
from sapag_fast.runtime.screen import plain_text
from sapag_fast.runtime.streams import shown

with needs("cli", "tables of recoveries"):
    from rich import box
    from rich.table import Table

__all__ = ["Report", "grid_rows", "recoveries_table"]

_SURE = ("", "given", "inferred")
"""Sources of labels that need no word beside them."""

RESULTS, GRID, TENSORS = "results.json", "grid.png", "recovered.safetensors"
_HEADER = "__metadata__"
"""What safetensors has no tensor of."""


class Report:
    """Collects finished recoveries and keeps the folder up to date with them.

    Nothing is created before the first result or `finish`.

    Parameters
    ----------
    folder : str or Path
    command : str
        For ``results.json``, as the next one.
    settings : mapping
    device : torch.device
    overwrite : bool
        The folder may hold files already.

    Raises
    ------
    ValueError
        When the folder holds files already (unless `overwrite`) or cannot be one.
    """

    def __init__(
        self,
        folder: str | Path,
        command: str,
        settings: Mapping[str, Any],
        device: torch.device,
        *,
        overwrite: bool = False,
    ) -> None:
        self.folder, self.command, self.settings, self.device = Path(folder), command, dict(settings), device
        self.finished: list[Finished] = []
        self.started = time.perf_counter()
        self._unwritten: list[Finished] = []
        self._names = FileNames(reserved=(GRID, f"{_HEADER}.png"))
        self._stale: set[str] = set()
        check_output(self.folder, overwrite)
        if overwrite:
            self._stale = _pictures_of(self.folder)
            sweep(self.folder, {TENSORS, RESULTS, GRID, *self._stale})

    def add(self, *finished: Finished) -> None:
        """Write these recoveries' files and everything that lists them.

        One that was interrupted before its first evaluation has nothing to show and is left out.
        """
        kept = [entry for entry in finished if entry.status != "interrupted" or math.isfinite(entry.distance)]
        self.finished += kept
        self._unwritten += kept
        self._write("running")

    def finish(self, status: str, **extra: Any) -> None:
        """Write the final status (finished, interrupted, failed) and anything else worth keeping."""
        self._write(status, extra)

    def _write(self, status: str, extra: Mapping[str, Any] | None = None) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in self._stale:
                (self.folder / name).unlink(missing_ok=True)
            self._stale = set()
            for entry in self._unwritten:
                for ending, image in zip(entry.file_endings(), entry.inputs, strict=False):
                    save_picture(self.folder / f"{self._stem(entry)}{ending}", to_picture(image))
            if self._unwritten:
                tensors = {self._tensor_name(entry): entry.inputs for entry in self.finished}
                write_tensors(self.folder / TENSORS, tensors)
                if rows := grid_rows(self.finished):
                    save_picture(self.folder / GRID, grid(rows))
                self._unwritten.clear()  # only now: what an interrupt cut short is written by finish()
            with replacing(self.folder / RESULTS) as temporary:
                temporary.write_text(
                    json.dumps(self.as_json(status, extra), indent=2, allow_nan=False) + "\n",
                    encoding="utf-8",
                )
        except OSError as error:
            raise ValueError(
                f"output folder {self.folder}: cannot be written: {error.strerror or error}"
            ) from None

    def as_json(self, status: str, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Give the content of ``results.json``; numbers that are not finite become null."""
        content = {
            "command": self.command,
            "status": status,
            "seconds": round(time.perf_counter() - self.started, 3),
            "settings": self.settings,
            "versions": versions(self.device),
            **(extra or {}),
            "recoveries": [entry.as_json(self._stem(entry)) for entry in self.finished],
        }
        return finite_json(content)

    def _stem(self, entry: Finished) -> str:
        """With which the names of its pictures begin: the victim's name, unless another file is called so."""
        return self._names.stem(entry.name, entry.name, entry.file_endings() or (".png",))

    def _tensor_name(self, entry: Finished) -> str:
        return self._stem(entry) if entry.name == _HEADER else entry.name


def grid_rows(finished: Sequence[Finished]) -> list[list[Row]]:
    """Make a group of rows for every group of recoveries.

    The true images come first where they are known, then one row a method, victims in step.
    """
    pictured = [entry for entry in finished if is_image(entry.inputs.shape[1:])]
    groups = []
    together: dict[str, list[Finished]] = {}
    for entry in pictured:
        together.setdefault(entry.group, []).append(entry)
    for group, entries in together.items():
        methods = list(dict.fromkeys(entry.method for entry in entries))
        rows = [
            Row(method, [i for entry in entries if entry.method == method for i in entry.inputs])
            for method in methods
        ]
        first = [entry for entry in entries if entry.method == methods[0]]
        if any(entry.truth is not None for entry in first):
            truth = [image for entry in first for image in _truth_in_order(entry)]
            rows.insert(0, Row(f"{shown(group)}\ntruth", truth))
        else:
            rows[0] = Row(f"{shown(group)}\n{rows[0].caption}", rows[0].images)
        groups.append(rows)
    return groups


def recoveries_table(finished: Sequence[Finished], title: str | None = None) -> Table:
    """Make a line for each recovery; PSNR, SSIM and MSE are means over its images."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    known = any(entry.scores for entry in finished)
    judged = any(entry.certificate is not None for entry in finished)
    table.add_column("recovery", overflow="fold")
    table.add_column("status", no_wrap=True)
    if judged:
        table.add_column("certificate", no_wrap=True)
    table.add_column("labels", overflow="fold")
    for heading in ("distance", "evals", "s", *(("PSNR", "SSIM", "MSE") if known else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in finished:
        labels = "" if entry.labels is None else ", ".join(map(_label, entry.labels.tolist()))
        if entry.label_source not in _SURE:
            labels += f" ({entry.label_source})"
        cells = [
            plain_text(entry.name),
            entry.status,
            *([(entry.certificate or {}).get("status", "")] if judged else []),
            labels,
            f"{entry.distance:.3g}",
            EXACT if entry.details.get("source") == EXACT else str(entry.evaluations),
            f"{entry.seconds:.1f}",
        ]
        if known and entry.scores:
            mean = {
                key: sum(getattr(s, key) for s in entry.scores) / len(entry.scores)
                for key in ("psnr", "ssim", "mse")
            }
            cells += [f"{mean['psnr']:.1f}", f"{mean['ssim']:.3f}", f"{mean['mse']:.1e}"]
        table.add_row(*cells)
    return table


def _label(label: Any) -> str:
    """A class, or the targets of one input, such as 0 1 1 or 0.25."""
    if isinstance(label, list):
        return " ".join(map(_label, label))
    return f"{label:.3g}" if isinstance(label, float) else str(label)


def _truth_in_order(entry: Finished) -> list[Tensor | None]:
    return (
        [None] * len(entry.inputs) if entry.truth is None else [entry.truth[index] for index in entry.order]
    )


def _pictures_of(folder: Path) -> set[str]:
    """Pictures that an earlier run in this folder lists as its own: bare PNG names only."""
    try:
        recoveries = json.loads(regular_file(folder / RESULTS, "results").read_text(encoding="utf-8"))[
            "recoveries"
        ]
        names = {image["file"] for recovery in recoveries for image in recovery["images"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {
        name for name in names if isinstance(name, str) and name.endswith(".png") and Path(name).name == name
    }
