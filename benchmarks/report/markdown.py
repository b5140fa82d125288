"""Markdown from result files: what the tables are put together from."""

import json
from collections.abc import Iterable
from typing import Any

from benchmarks import RESULTS


def read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine_line(found: dict[str, Any]) -> str:
    return (
        f"{found['device']} ({found['capability']}), {found['threads']} thread(s), torch {found['torch']}, "
        f"Python {found['python']}, commit {found['commit']}."
    )


def prose(text: str) -> str:
    """A paragraph on one line, however it is wrapped here."""
    return " ".join(text.split())


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
