"""The section of benchmarks/README.md on deep networks."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.recovery.deep_rows import ROWS, Row
from benchmarks.report.markdown import machine_line, prose, read, table

_ROUNDED = 0.05  # figures are written to a tenth of a dB
_SHARE = 0.9
_FLOOR = "digits"  # the caution's word where float32 holds too few of them


def deep_networks_table(lines: Sequence[dict[str, Any]]) -> str:
    """One row a network."""
    head = (
        "network", "D at noise", "scale", "victims", "before", "scaled by hand", "median of the others",
        "recovered", "met", "cautions",
    )  # fmt: skip
    return table(head, [_cells(ROWS[line["network"]], line) for line in lines if line["network"] in ROWS])


def _cells(row: Row, line: dict[str, Any]) -> list[str]:
    shown, others = _split(line)
    return [
        row.name,
        _range(line["distance at noise"]),
        _range(line["scale"]),
        _decibels(shown),
        _decibels(row.before),
        _decibels(row.scaled),
        f"{median(others):.1f}" if others else "",
        f"{line['recovered']} of {len(line['psnr'])}{_by_arithmetic(line)}",
        {True: "yes", False: "NO", None: ""}[is_met(row, line)],
        ", ".join(line["cautions"]),
    ]


def is_met(row: Row, line: dict[str, Any]) -> bool | None:
    """Whether a line reaches its row's bar; None where there is none."""
    shown, others = _split(line)
    if row.floor:
        return any(_FLOOR in message for message in line["cautions"].values())
    if row.bar is None:
        return None
    reached = all(value >= bar - _ROUNDED for value, bar in zip(shown, row.bar, strict=False))
    if row.others and others:
        reached = reached and median(others) >= min(row.bar) - _ROUNDED
    return reached


def deep_networks_section() -> str:
    """Empty without a result."""
    found = read("deep_networks")
    if not found:
        return ""
    lines = [line for line in found["lines"] if line["network"] in ROWS]
    met = [verdict for line in lines if (verdict := is_met(ROWS[line["network"]], line)) is not None]
    counted = [line for line in lines if ROWS[line["network"]].share]
    recovered, searched = (
        (sum(part) for part in zip(*map(_counts, counted), strict=True)) if counted else (0, 0)
    )
    commits = ", ".join(dict.fromkeys(line["commit"] for line in lines))
    steps = ", ".join(dict.fromkeys(_settings(line) for line in lines))
    return "\n".join(
        [
            "## Deep networks",
            "",
            prose(
                f"""
                `python -m benchmarks.recovery.deep_networks`. Untrained networks, bundled photographs of
                32×32, one gradient each, labels known, the recipe ``auto`` with nothing set by hand; {steps}.
                PSNR in dB. *Before*: the first two victims when distances had no scale; *scaled by hand*:
                with the distance times 0.3 over its value at noise (in training mode the better of that and a
                tenth of it).
                *Met*: the two victims and the median of the others come within 2 dB of what scaling by hand
                brought out (float64: 20 dB); where it brought nothing out, the two are no worse than before
                (``s2-p8`` with sigmoids: than scaled by hand). The figures beside were measured on networks
                of the same kind, not on these very weights, which moves single pictures by some dB. Vision
                transformers are solved by arithmetic; *searched* rows leave that out, and *mean* rows
                classify the patches' mean in place of a class token.
                *Recovered*: a mean squared error below 0.01.
                """
            ),
            "",
            f"Met: {sum(met)} of {len(met)} networks with a bar. VGG style of 6, 10 and 16 layers, four "
            f"initialisations, sigmoid and tanh: {recovered} of {searched} pictures recovered "
            f"({_SHARE:.0%} are asked for).",
            "",
            deep_networks_table(lines),
            "",
            machine_line({**found, "commit": commits}),
        ]
    )


def _counts(line: dict[str, Any]) -> tuple[int, int]:
    return line["recovered"], len(line["psnr"])


def _by_arithmetic(line: dict[str, Any]) -> str:
    return " (by arithmetic)" if set(line.get("source", ())) == {"exact"} else ""


def _settings(line: dict[str, Any]) -> str:
    return f"{line['settings']['restarts']} restart(s) of {line['settings']['steps']} evaluations"


def _split(line: dict[str, Any]) -> tuple[list[float], list[float]]:
    """PSNRs of the victims with figures beside them, and of the others."""
    victims = line["settings"]["victims"]
    return line["psnr"][:victims], line["psnr"][victims:]


def _decibels(values: Sequence[float] | None) -> str:
    return "" if values is None else ", ".join(f"{value:.1f}" for value in values)


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1g}", f"{max(values):.1g}"
    return low if low == high else f"{low} to {high}"
