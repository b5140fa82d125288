"""The section of benchmarks/README.md on certificates of victims that nothing was set on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.stats import binomtest

from benchmarks.report.markdown import machine_line, prose, read, table

_COUNTS = ("victims", "recovered", "close", "close and recovered", "certified", "certified and wrong")


def _figures(lines: Sequence[dict[str, Any]], *, interval: bool = False) -> list[str]:
    """Counts over the cells, what of the close and recovered stays certified, and the checks' share."""
    total = {name: sum(line[name] for line in lines) for name in (*_COUNTS, "kept")}
    checks, searches = (
        sum(line[f"evaluations of {what}"] for line in lines) for what in ("checks", "searches")
    )
    kept, of = total["kept"], total["close and recovered"]
    share = f"{kept / of:.1%}" if of else "-"
    if of and interval:
        bounds = binomtest(kept, of).proportion_ci(method="wilson")
        share += f" ({bounds.low:.1%} to {bounds.high:.1%})"
    counts = (str(total[name]) for name in _COUNTS)
    return [*counts, share, f"{checks / searches:.1%}" if searches else "-"]


def fresh_table(lines: Sequence[dict[str, Any]]) -> str:
    """One row a cell, one for each family, one for all."""
    rows = []
    for family in dict.fromkeys(line["family"] for line in lines):
        some = [line for line in lines if line["family"] == family]
        for line in some:
            cell = f"{line['network']} ({line['initialisation']}), {line['phase']}"
            rows.append([family, cell, *_figures([line]), line["commit"]])
        rows.append([family, "all", *_figures(some, interval=True), ""])
    rows.append(["all", "", *_figures(lines, interval=True), ""])
    return table(("family", "network", *_COUNTS, "stay certified", "share of the checks", "commit"), rows)


def fresh_certificates_section() -> str:
    """Empty without a result."""
    found = read("certificate_fresh")
    if not found:
        return ""
    commits = sorted({line["commit"] for line in found["cells"]})
    restarts = ", ".join(sorted({str(line["restarts"]) for line in found["cells"]}))
    return "\n".join(
        [
            "## What certificates say of victims that nothing was set on",
            "",
            prose(
                f"""
                `python -m benchmarks.recovery.certificate --data DATA --fresh`, restarts: {restarts}. The
                package's thresholds and its check that the gradient determines the input, on a third range of
                images and on networks with weights of their own. *Recovered*: {found["success"]}; *close*: at
                the threshold or below; *stay certified*: of the close and recovered those that the check
                leaves certified, with Wilson's 95 % interval; *share of the checks*: their evaluations, of
                those of the searches that were checked. Families without a threshold (photographs, batches)
                certify nothing.
                """
            ),
            "",
            fresh_table(found["cells"]),
            "",
            machine_line(found | {"commit": ", ".join(commits)}),
        ]
    )
