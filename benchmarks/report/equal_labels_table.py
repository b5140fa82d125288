"""The tables of images of one label behind one gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.report.markdown import machine_line, prose, read, table

PRECISIONS = ("float32", "float64")


def equal_labels_section() -> str:
    found = read("equal_labels")
    if not found:
        return ""
    lines = found["lines"]
    return "\n".join(
        [
            "## Where the information about images of one label ends",
            "",
            prose(
                f"""
                `python -m benchmarks.recovery.equal_labels --data DATA`. Gradients of eight of MNIST's
                images from 1000 on through LeNets with torch's own initialisation, labels as they fall. All
                differences of gradients are counted in the errors that float32 makes of the target, root
                mean square over all parameters: 1 is what the true images are off by in float32. *averages*:
                of the true images with the mean of those of one label in their place. Images that the first
                search and `separate_equal_labels` ({found["steps"]} evaluations) find, and how far the
                gradient of what they find is off, with targets and arithmetic of either precision.
                """
            ),
            "",
            searched_table(lines),
            "",
            prose(
                """
                What the gradients hold, by a linear analysis at the true images, whatever search there is:
                images that are expected below the error of success by who knows the digits' spread and the
                gradient with normal noise in each parameter, of so many float32 errors of its tensor. Of the
                images whose label occurs once in their batch, and of the others.
                """
            ),
            "",
            determined_table(lines),
            "",
            machine_line(found),
        ]
    )


def searched_table(lines: Sequence[dict[str, Any]]) -> str:
    """A row for each batch, and one of sums."""
    rows = []
    for line in lines:
        row = [_labels(line["labels"]), f"{line['averages, difference']:.0f}"]
        for precision in PRECISIONS:
            for which in ("first", "second"):
                told = line[precision][which]
                row.append(f"{told['images']} ({_size(told['difference'])})")
        rows.append(row)
    total = ["all", ""]
    for precision in PRECISIONS:
        for which in ("first", "second"):
            images = sum(line[precision][which]["images"] for line in lines)
            total.append(f"{images} of {sum(len(line['labels']) for line in lines)}")
    head = ["labels", "averages"]
    head += [f"{precision}, {which}" for precision in PRECISIONS for which in ("first", "second")]
    return table(head, [*rows, total])


def determined_table(lines: Sequence[dict[str, Any]]) -> str:
    """A column for each noise."""
    levels = list(lines[0]["expected error"])
    alone, several = Counter(), Counter()
    of = Counter()
    for line in lines:
        for image, label in enumerate(line["labels"]):
            once = line["labels"].count(label) == 1
            of[once] += 1
            for level in levels:
                (alone if once else several)[level] += line["determined"][level][image]
    rows = [
        ["label occurs once", *(f"{alone[level]} of {of[True]}" for level in levels)],
        ["label occurs again", *(f"{several[level]} of {of[False]}" for level in levels)],
    ]
    return table(["noise, in float32 errors", *(f"{float(level):,.0f}" for level in levels)], rows)


def _labels(labels: Sequence[int]) -> str:
    return " ".join(map(str, sorted(labels)))


def _size(difference: float) -> str:
    return f"{difference:,.0f}" if difference >= 10 else f"{difference:.2g}"
