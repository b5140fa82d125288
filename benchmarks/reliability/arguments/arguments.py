"""The part of the suite on arguments."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from click.testing import CliRunner

from benchmarks.reliability.arguments.commands import COMMANDS
from benchmarks.reliability.arguments.functions import FUNCTIONS
from benchmarks.reliability.arguments.pools import Pool
from benchmarks.reliability.bounds import Hang, bounded
from benchmarks.reliability.part import Outcome, generator, scratch_folder
from benchmarks.reliability.sources import EVERYTHING
from sapag_fast.command_line.main import main

REFUSED = 2
COMMAND_SHARE = 0.4


class Arguments:
    """A public function or a command with one to three of its arguments replaced, by values that have to work
    or by nonsense of every sort. Without nonsense it works; else it is refused by a ValueError or TypeError,
    or with status 2 and a line, that names an argument (or the path) that is nonsense.
    """

    name, title = "arguments", "Combinations of arguments"
    amount, block, patience = 1500, 100, 120.0
    environment = MappingProxyType({"OMP_NUM_THREADS": "1"})
    sources = EVERYTHING

    def draw(self, seed: int, number: int) -> tuple[str, bool, dict[str, Any], set[str]]:
        """What is called, whether by the command line, the arguments replaced, and which are nonsense."""
        rng = generator(self.name, seed, number)
        command = bool(rng.random() < COMMAND_SHARE)
        table: Mapping[str, Any] = COMMANDS if command else FUNCTIONS
        name = str(rng.choice(list(table)))
        changes, bad = _changes(rng, table[name].pools)
        return name, command, changes, bad

    def show(self, seed: int, number: int) -> str:
        name, command, changes, bad = self.draw(seed, number)
        given = ", ".join(f"{key}={value!r}" for key, value in changes.items())
        return f"{'sapag-fast ' * command}{name}: {given}; nonsense: {', '.join(sorted(bad)) or 'none'}"

    def check(self, seed: int, number: int) -> Outcome:
        name, command, changes, bad = self.draw(seed, number)
        outcome = Outcome()
        with scratch_folder(self.name) as folder, bounded(30), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = _command if command else _function
            try:
                fault, end = answer(name, changes, bad, folder)
            except Hang as error:
                fault, end = str(error), "hung"
        outcome.counts[f"{'commands' if command else 'functions'} {end}"] += 1
        if fault:
            outcome.faults.append(f"{self.show(seed, number)}: {fault}".replace(f"{folder}/", ""))
        return outcome


def _changes(rng: np.random.Generator, pools: Mapping[str, Pool]) -> tuple[dict[str, Any], set[str]]:
    names = [str(n) for n in rng.permutation(list(pools))[: int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))]]
    changes: dict[str, Any] = {}
    bad: set[str] = set()
    for name in names:
        pool = pools[name]
        nonsense = bool(pool.bad) and (not pool.good or rng.random() < 0.6)
        values = pool.bad if nonsense else pool.good
        changes[name] = values[int(rng.integers(len(values)))]
        if nonsense:
            bad.add(name)
    return changes, bad


def _function(name: str, changes: dict[str, Any], bad: set[str], folder: Path) -> tuple[str | None, str]:
    function = FUNCTIONS[name]
    arguments = function.base(folder)
    for key, value in changes.items():
        is_maker = callable(value) and getattr(value, "__name__", "") in ("<lambda>", "_pair")
        makes = is_maker and key not in ("on_finished", "progress")
        arguments[key] = value() if makes else value
    try:
        function.call(**arguments)
    except (ValueError, TypeError) as error:
        return _refusal(type(error).__name__, str(error), changes, bad)
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.200}", "raised"
    return (f"took {', '.join(sorted(bad))}" if bad else None), "worked"


def _command(name: str, changes: dict[str, Any], bad: set[str], folder: Path) -> tuple[str | None, str]:
    command = COMMANDS[name]
    options = command.base(folder) | changes
    words = [*command.words, *(w for key, value in options.items() for w in (key, value) if w is not None)]
    before = os.getcwd()
    os.chdir(folder)  # an empty path is the folder at hand
    try:
        done = CliRunner().invoke(main, [str(word) for word in words])
    finally:
        os.chdir(before)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return f"{type(done.exception).__name__}: {done.exception!s:.200}", "raised"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.exit_code == REFUSED:
        if not lines or not lines[-1].startswith(("Error:", "sapag-fast:")):
            return f"status 2 without its line: {done.stderr[-200:]!r}", "refused"
        return _refusal("status 2", lines[-1], changes, bad)
    if done.exit_code not in (0, 3):
        return f"status {done.exit_code}: {done.output[-200:]!r}", "raised"
    return (f"took {', '.join(sorted(bad))}, status {done.exit_code}" if bad else None), "worked"


def _refusal(kind: str, text: str, changes: dict[str, Any], bad: set[str]) -> tuple[str | None, str]:
    if not bad:
        return f"refused what has to work, {kind}: {text:.200}", "refused"
    paths = [str(changes[name]) for name in bad if str(changes[name])[:1] in ("/", ".")]
    if not any(_names(text, name) for name in bad) and not any(path in text for path in paths):
        return f"{kind} names no argument that is wrong: {text:.200}", "refused"
    return None, "refused"


def _names(text: str, name: str) -> bool:
    """Whether the message speaks of the argument, in either spelling, or of what it is in words."""
    plain = name.lstrip("-").replace("-", "_")
    forms = {plain, plain.replace("_", "-"), plain.replace("_", " "), plain.rstrip("s")}
    return any(re.search(rf"(?<![\w]){re.escape(form)}s?(?![\w])", text, re.IGNORECASE) for form in forms)
