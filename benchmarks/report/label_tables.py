"""The section of benchmarks/README.md on labels of batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.report.markdown import machine_line, prose, read, table


def label_table(lines: Sequence[dict[str, Any]]) -> str:
    """One row a network and batch size."""
    rows = []
    for line in lines:
        ours, other, batches = line["ours"], line["iLRG"], line["batches"]
        exact, images = (
            ", ".join(f"{way[name] / batches:.2f}" for way in (ours, other)) for name in ("exact", "images")
        )
        certain = f"{ours['certain']} of {batches}, {ours['certain_wrong']}"
        rows.append([line["network"], str(line["batch size"]), exact, images, certain])
    return table(("network", "B", "exact: ours, iLRG", "images: ours, iLRG", "certain, of these wrong"), rows)


def batch_labels_section() -> str:
    """Empty without a result."""
    found = read("batch_labels")
    if not found:
        return ""
    return "\n".join(
        [
            "## Labels of batches behind one gradient",
            "",
            prose(
                """
                `python -m benchmarks.recovery.batch_labels`. LeNets, untrained and trained on the bundled
                digits; batches of digits that they were not trained on. *iLRG*: instance-wise restoration (Ma
                et al. 2023), its counts rounded as ours. *Exact*: the share of batches whose counts are all
                right; *images*: the share of images whose labels are among those found; *certain*: batches
                whose labels are called ``inferred``.
                """
            ),
            "",
            label_table(found["lines"]),
            "",
            machine_line(found),
        ]
    )
