"""RELIABILITY.md, from what the parts' runs kept.

Nothing in it is typed by hand but what ``explained.json`` beside the results says of faults: by part and by
the words with which a fault begins.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.reliability.parts import PARTS
from benchmarks.report.markdown import machine_line, prose, table

SHOWN = 20


def write_report(results: Path, path: Path) -> Path:
    records = [json.loads(file.read_text()) for name in PARTS if (file := results / f"{name}.json").exists()]
    words = results / "explained.json"
    explained = json.loads(words.read_text()) if words.exists() else {}
    sections = (_section(record, explained.get(record["part"], {})) for record in records)
    path.write_text("\n\n".join([_head(), *sections]) + "\n")
    return path


def _head() -> str:
    return "# Reliability\n\n" + prose(
        """
        Written by `make fuzz`, from random cases that are each drawn from a seed and a number:
        `python -m benchmarks.reliability --part PART --seed SEED --case NUMBER` runs one again and prints it.
        A case runs in a process of its own kind that may die of it; that, and a case that does not end, is a
        fault like a wrong number.
        """
    )


def _section(record: dict[str, Any], explained: dict[str, str]) -> str:
    part = PARTS[record["part"]]
    unfinished = "" if record["cases"] >= record["amount"] else f" of {record['amount']:,} planned"
    rows = [
        ("cases", f"{record['cases']:,}{unfinished}"),
        *((name, f"{count:,}") for name, count in sorted(record["counts"].items())),
        ("**faults**", f"**{record['fault_count']}**"),
    ]
    parts = [f"## {part.title}", prose(part.__doc__ or ""), table(("what", "how many"), rows)]
    if record["faults"]:
        lines = [
            f"* case {fault['case']}: {_code(fault['fault'])}{_why(fault['fault'], explained)}"
            for fault in record["faults"][:SHOWN]
        ]
        more = record["fault_count"] - len(lines)
        parts.append("\n".join(lines + [f"* and {more} more"] * (more > 0)))
    parts.append(
        f"Seed {record['seed']}, {record['seconds'] / 60:.0f} minutes. {machine_line(record['machine'])}"
    )
    return "\n\n".join(parts)


def _why(fault: str, explained: dict[str, str]) -> str:
    return next((f". {words}" for start, words in explained.items() if fault.startswith(start)), "")


def _code(text: str) -> str:
    return "`" + " ".join(text.split()).replace("`", "'")[:300] + "`"
