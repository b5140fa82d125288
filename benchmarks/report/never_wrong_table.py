"""The section of benchmarks/README.md on cases made up to mislead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.report.markdown import machine_line, prose, read, table

_LONGEST = 110
_VERDICTS = ("right", "announced", "WRONG WITHOUT A WORD")


def case_table(lines: Sequence[dict[str, Any]]) -> str:
    """One row a case, with what the tool said."""
    rows = [
        [
            line["kind"],
            line["case"],
            str(line["runs"]),
            *(str(line[v]) for v in _VERDICTS),
            _short(line["said"]),
        ]
        for line in lines
    ]
    return table(("kind", "case", "runs", *_VERDICTS, "what the tool said"), rows)


def never_wrong_section() -> str:
    found = read("never_wrong")
    if not found:
        return ""
    lines = found["cases"]
    rows = []
    for kind in dict.fromkeys(line["kind"] for line in lines):
        some = [line for line in lines if line["kind"] == kind]
        totals = (str(sum(line[name] for line in some)) for name in ("runs", *_VERDICTS))
        rows.append([kind, str(len(some)), *totals])
    totals = (str(sum(line[name] for line in lines)) for name in ("runs", *_VERDICTS))
    rows.append(["all", str(len(lines)), *totals])
    return "\n".join(
        [
            "## Nothing wrong without a word",
            "",
            prose(
                """
                `python -m benchmarks.recovery.never_wrong --data DATA`. Networks, labels, losses, bounds,
                modes and sentences made up to mislead, on victims that nothing was set on. *Right*: what was
                claimed is true (a certificate; labels, whatever they are called; a recovered picture).
                *Announced*: refused, warned of, not certified, or not called certain, with a reason. *Wrong
                without a word*: claimed, and wrong. Of each case the worst is told.
                """
            ),
            "",
            table(("kind", "cases", "runs", *_VERDICTS), rows),
            "",
            case_table(lines),
            "",
            machine_line(found),
        ]
    )


def _short(said: str) -> str:
    said = said.replace("|", "/").replace("\n", " ")
    return said if len(said) <= _LONGEST else said[: _LONGEST - 3] + "..."
