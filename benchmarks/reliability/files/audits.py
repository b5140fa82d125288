"""The audit command where one victim's file is hostile, or its own folder was damaged between two runs."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner, Result

from benchmarks.reliability.files import gradients
from benchmarks.reliability.files.sample import Sample
from benchmarks.reliability.small_net import make
from benchmarks.reliability.victims import MODEL, write_victims
from sapag_fast.command_line.main import main

QUICK = ("--steps", "2", "--restarts", "1", "--recipe", "smooth")
SKIPPED, REFUSED = 3, 2


def victims(rng: np.random.Generator, folder: Path) -> Sample:
    """Two good victims and a hostile one: it is skipped, and the others have their results."""
    source = write_victims(folder / "data", 2)
    shapes = {name: p.shape for name, p in make().named_parameters()}
    own = {name: torch.from_numpy(rng.standard_normal(s, dtype=np.float32)) for name, s in shapes.items()}
    place = folder / "made"
    place.mkdir()
    if rng.random() < 0.5:
        other = gradients.numbers(rng) if rng.random() < 0.2 else own
        path = gradients.write_any(rng, place, other)
    else:
        path = gradients.forged_gradient(rng, place, {**gradients.numbers(rng), **own})
    moved = source / path.name
    path.rename(moved)
    output = folder / "out"
    known = ("--labels", "known") if rng.random() < 0.4 else ()

    def read() -> Result:
        shape = ("--input-shape", "1x4x4") if path.suffix != ".safetensors" else ()
        return _audit(folder / "data" / "w.safetensors", source, output, *known, *shape)

    def sane(done: Result) -> str | None:
        if done.exit_code not in (0, SKIPPED) or not _ended_well(done):
            return f"status {done.exit_code}, {done.exception!r}: {done.output[-300:]}"
        json.loads((output / "summary.json").read_text())
        kept = {file.name for file in (output / "results").iterdir()}
        lost = {"v0.safetensors", "v1.safetensors"} - kept
        return f"no result of {sorted(lost)}: {done.output[-300:]}" if lost else None

    return Sample(moved, read, lambda done: None, sane, True, f"an audit with {path.suffix}")


def _audit(weights: Path, source: Path, output: Path, *more: str) -> Result:
    words = ["audit", *MODEL, "--weights", weights, "--gradients", source, "--output", output, *QUICK, *more]
    return CliRunner().invoke(main, [str(word) for word in words])


def _ended_well(done: Result) -> bool:
    return done.exception is None or isinstance(done.exception, SystemExit)


@cache
def _finished() -> tuple[Path, dict[str, bytes]]:
    """An audit that has ended, once a process, and its results' bytes."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-audit-"))
    source = write_victims(folder / "data", 3)
    done = _audit(folder / "data" / "w.safetensors", source, folder / "out")
    if done.exit_code:
        raise RuntimeError(done.output) from done.exception
    return folder, _results(folder / "out")


def _results(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((output / "results").iterdir())}


def folder(rng: np.random.Generator, folder: Path) -> Sample:
    """The same command again: the same results, or one line that names the file."""
    kept, results = _finished()
    output = folder / "out"
    shutil.copytree(kept / "out", output, symlinks=True)
    name = str(
        rng.choice(
            [
                "audit.json",
                "sessions.json",
                "results/v1.safetensors",
                "checkpoint.safetensors",
                "summary.json",
            ]
        )
    )
    path = output / name
    if not path.exists():  # a checkpoint, as a kill leaves it
        shutil.copy(output / "results" / "v0.safetensors", path)
    if rng.random() < 0.3:
        path.write_text(_odd_json(rng))

    def read() -> Result:
        done = _audit(kept / "data" / "w.safetensors", kept / "data" / "gradients", output)
        lines = done.stderr.strip().splitlines()
        if done.exit_code == REFUSED and _ended_well(done) and len(lines) == 1:
            raise ValueError(lines[0])
        return done

    def sane(done: Result) -> str | None:
        if done.exit_code != 0 or not _ended_well(done):
            return f"status {done.exit_code}, {done.exception!r}: {done.output[-300:]}"
        json.loads((output / "summary.json").read_text())
        there = _results(output)
        if path.name in there:  # numbers that are changed in a whole file look like others
            there[path.name] = results[path.name]
        return None if there == results else f"other results: {sorted(there)}"

    return Sample(path, read, lambda done: None, sane, True, f"a finished audit's {name}")


def _odd_json(rng: np.random.Generator) -> str:
    odd: list[Any] = [[], {}, None, [1], [{}], [{"seconds": "x", "peak_memory": None}], 1e400, {"victims": 3}]
    texts = [json.dumps(value) for value in odd] + ["[" * 100_000, "", "{", '{"a": 1, "a": 2}', "NaN"]
    return str(rng.choice(texts))
