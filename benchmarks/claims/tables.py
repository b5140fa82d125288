"""Writes the claims' tables and plots from the result files alone: no figure in them is typed by hand.

python -m benchmarks.claims.tables [--results FOLDER]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.claims.bars import bar_of, lead_lines, verdict
from benchmarks.claims.engine import read_result
from benchmarks.claims.images import COMPARED_RESTARTS
from benchmarks.claims.methods import LABELS, METHODS
from benchmarks.claims.plots import plot_curves, plot_phases, save_strips
from benchmarks.claims.summary import Summary, recovered_by_first, summarise, wilson
from benchmarks.claims.totals import totals_table
from benchmarks.report.markdown import prose, table
from sapag_fast.files.output import replacing

__all__ = ["QUICK_RESULTS", "RESULTS", "report_path", "write"]

RESULTS = BENCHMARKS / "results" / "claims"
QUICK_RESULTS = BENCHMARKS / "results" / "claims-quick"

Result = Mapping[str, Any]
Row = tuple[Result, Summary]

_TITLES = {
    "images": ("Any initialisation, any phase", "Sigmoid LeNet, one image a gradient."),
    "phases": ("Success by training phase", "Sigmoid LeNet after so many epochs; 4 restarts throughout."),
    "batches": (
        "Several images behind one gradient",
        "Sigmoid LeNet, untrained. Each image counts; images of one gradient are not independent, so the "
        "intervals are too narrow. Recovered and true images are paired within their labels. The second "
        "search for equal labels was made longer, on other batches, after its photographs here had fallen "
        "short by one.",
    ),
    "defences": (
        "Defended gradients",
        "What each strength leaves. Noise is relative to the gradient's root mean square, or absolute after "
        "clipping; `withhold:` names the entries that are not shared, and the labels are then given.",
    ),
    "relu": (
        "Networks with ReLU on photographs",
        "SAPAG's recipe matches through a softplus surrogate; the others, at as many evaluations, the bare "
        "network by signed Adam. Entries are median PSNR.",
    ),
    "deep": (
        "Deep networks, and what arithmetic recovers",
        "Sigmoid ResNet-20 with global pooling, a vision transformer of six layers with a class token, and "
        "perceptrons with ReLU; one restart. Where inputs follow from the gradient by arithmetic, `recover` "
        "does not search: one column has that, the other the search alone. Entries are images recovered, and "
        "median PSNR.",
    ),
    "networks": ("Other networks on digits", "torch's own initialisation."),
    "curves": ("On the way", "One restart, one network; the victims' medians are in the plots."),
    "text": ("Text", "Encoder classifiers on CoLA's sentences."),
}
"""Title and first words by group; groups that are not here come last under their own name."""


def report_path(folder: Path) -> Path:
    """Where the report of a folder of results goes."""
    return BENCHMARKS / "CLAIMS.md" if folder == RESULTS else folder / "CLAIMS.md"


def write(folder: Path, output: Path) -> Path:
    """Write the report on all result files in `folder`, and its plots into ``folder/plots``."""
    results = [found for path in sorted(folder.glob("*.json")) if (found := read_result(path))]
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    pictures = os.path.relpath(plots, output.parent)
    groups: dict[str, list[Row]] = {name: [] for name in _TITLES}
    for found in results:
        groups.setdefault(found["group"], []).append((found, summarise(found)))
    parts = [_opening(results)]
    for group, rows in groups.items():
        if not rows:
            continue
        title, words = _TITLES.get(group, (group, ""))
        images = all("method" in found["settings"] for found, _ in rows)
        words += _shared_out(rows) if images else ""
        parts += [f"## {title}", prose(f"{words} {_machines(rows)}")]
        parts += _image_group(group, rows) if images else [_plain_table(rows)]
        parts += _plots(group, [found for found, _ in rows], plots, pictures)
    parts += _certificates(results)
    with replacing(output) as temporary:
        temporary.write_text("\n\n".join(filter(None, parts)) + "\n")
    return output


def _opening(results: Sequence[Result]) -> str:
    bars = [(bar, summarise(found)) for found in results if (bar := bar_of(found))]
    held = sum(verdict(bar, summary).endswith("holds") for bar, summary in bars)
    hours = sum(found["cpu seconds"] for found in results) / 3600
    return "\n\n".join(
        [
            "# The claims, measured",
            prose(
                f"""
                Written by `python -m benchmarks.claims.tables` from `{len(results)}` result files, which
                `python -m benchmarks.claims --data DATA` makes ({hours:.2f} CPU hours in all). Victims are
                fixed by seed, from images and sentences that no recipe was tuned on: MNIST's test images
                4000 to 7999, the class folders `test` of CIFAR-10, CoLA's `in_domain_dev.tsv`. Trained
                networks have seen other images, for as many epochs of Adam as is said. An image is
                recovered when the mean squared error of its pixels in [0, 1] is below 0.01. Rival distances
                get SAPAG's starts, evaluations and priors, and where they have fewer restarts, SAPAG's first
                ones stand beside them; since equal priors and the optimiser's
                absolute thresholds hold back a distance with a small gradient, cosine (and in places L2) is
                also there without priors and a million times larger; DLG is as published (labels searched
                jointly, noise starts, no priors), at equal evaluations and in places at its own budget of
                6000, but never stopped by its optimiser's tolerances. Labels are inferred, but given where a
                network is so certain of a victim that float32 leaves none in its gradient. Square brackets:
                Wilson's 95 % interval.
                *Evaluations* and *CPU s* are those spent for each recovery, victims that were never
                recovered included; *restarts* is the share of single restarts that succeed. Cells that fall
                short of their bar stay.
                """
            ),
            _longer_searches(results),
            f"Bars held: {held} of {len(bars)} measured." if bars else "",
        ]
    )


def _longer_searches(results: Sequence[Result]) -> str:
    """How many of SAPAG's cells were measured with searches that do not end by themselves."""
    methods = ("sapag", "sapag-separated")
    own = [found["settings"] for found in results if found["settings"].get("method") in methods]
    recipes = [settings.get("recipe", {}) for settings in own if not settings.get("traced")]
    smooth = [recipe for recipe in recipes if not recipe.get("surrogate")]
    longer = sum(recipe.get("patience") == 0 for recipe in smooth)
    if not longer:
        return ""
    return (
        f"{longer} of {len(smooth)} cells of SAPAG on smooth networks are of searches that take all their "
        "evaluations (`patience=0`); those of the package end once they have arrived or stalled."
    )


def _shared_out(rows: Sequence[Row]) -> str:
    counts = sorted({found["settings"]["networks"] for found, _ in rows})
    several = "-".join(map(str, counts))
    return f" A cell's victims are shared out among {several} networks of different seeds." * (counts[-1] > 1)


def _machines(rows: Sequence[Row]) -> str:
    """Devices, versions and commits of these results, the same said once."""
    told = {
        f"{f['device']}, {f['threads']} thread(s), torch {f['torch']}, commit {f['commit']}, {f['date']}"
        for f, _ in rows
    }
    return "Measured on: " + "; ".join(sorted(told)) + "."


def _where(settings: Mapping[str, Any]) -> tuple:
    """What stays the same along a row of the first table."""
    keys = (
        "dataset",
        "network",
        "activation",
        "initialisation",
        "epochs",
        "batch_size",
        "distinct",
        "defence",
    )
    values = [settings[key] for key in keys]
    return (*values[:-1], " ".join(values[-1]), settings["training_mode"])


def _words(where: tuple, accuracy: Sequence[float | None]) -> str:
    dataset, network, activation, initialisation, epochs, batch, distinct, defence, mode = where
    reached = [one for one in accuracy if one is not None]
    words = [f"{dataset} {network} ({activation}, {initialisation})"]
    words.append("untrained" if not epochs else f"{epochs} epochs")
    if reached:
        span = sorted({f"{100 * one:.0f}" for one in (min(reached), max(reached))}, key=float)
        words[-1] += f", accuracy {'-'.join(span)} %"
    words += [f"B = {batch}, labels {'distinct' if distinct else 'as they fall'}"] if batch > 1 else []
    words += [f"`{defence}`"] if defence else []
    words += ["BatchNorm in training mode"] if mode else []
    return ", ".join(words)


def _image_group(group: str, rows: Sequence[Row]) -> list[str]:
    """A table with a column a method, and all figures of all cells folded away below."""
    methods = [name for name in METHODS if any(found["settings"]["method"] == name for found, _ in rows)]
    by_place: dict[tuple, dict[str, Row]] = {}
    for found, summary in rows:
        by_place.setdefault(_where(found["settings"]), {})[found["settings"]["method"]] = (found, summary)
    entry = {"relu": _decibels, "deep": _both}.get(group, _count)
    compared = group == "images" and methods[0] == "sapag" and len(methods) > 1
    lines, details = [], []
    for where in sorted(by_place):
        cells = by_place[where]
        ordered = [cells[name] for name in methods if name in cells]
        words = _words(where, ordered[0][0]["accuracy"])
        judged = [verdict(bar, summary) for found, summary in ordered if (bar := bar_of(found))]
        figures = [entry(cells[name][1]) if name in cells else "" for name in methods]
        if compared:
            figures.insert(1, _first_restarts(cells))
        lines.append([words, *figures, "; ".join(judged)])
        details += [_details(words, *cell) for cell in ordered]
    names = [LABELS.get(name, name) for name in methods]
    if compared:
        names.insert(1, f"SAPAG, {COMPARED_RESTARTS} restarts")
    head = ["victims' network", *names, "bar"]
    told = (
        "victims' network", "method", "recovered", "median PSNR", "median SSIM", "restarts", "evaluations",
        "CPU s", "whole cell, s",
    )  # fmt: skip
    parts = [totals_table([found for found, _ in rows], methods) if compared else "", table(head, lines)]
    if group == "relu":
        parts.append("\n".join(lead_lines(rows)))
    parts.append(_restart_table(by_place))
    return [*parts, f"<details><summary>All figures</summary>\n\n{table(told, details)}\n\n</details>"]


def _restart_table(by_place: Mapping[tuple, Mapping[str, Row]]) -> str:
    """How many victims one of SAPAG's first k restarts has recovered, for k = 1, 2, 4, ..."""
    ours = {where: cells["sapag"][0] for where, cells in by_place.items() if "sapag" in cells}
    most = max((len(v.get("restarts", ())) for found in ours.values() for v in found["victims"]), default=0)
    counts = [count for count in (1, 2, 4, 8, 16) if count <= most]
    if len(counts) < 2:
        return ""
    lines = []
    for where in sorted(ours):
        hits = [victim["restarts"] for victim in ours[where]["victims"]]
        tried = max(map(len, hits))
        reached = [
            str(sum(True in hit[:count] for hit in hits)) if count <= tried else "" for count in counts
        ]
        lines.append([_words(where, ours[where]["accuracy"]), *map(str, reached), str(len(hits))])
    head = ["SAPAG, recovered by one of the first restarts", *map(str, counts), "victims"]
    return f"<details><summary>By the number of restarts</summary>\n\n{table(head, lines)}\n\n</details>"


def _first_restarts(cells: Mapping[str, Row]) -> str:
    """SAPAG's success with as few restarts as the rivals have."""
    if "sapag" not in cells:
        return ""
    victims = cells["sapag"][0]["victims"]
    return f"{recovered_by_first(victims, COMPARED_RESTARTS)}/{len(victims)}"


def _count(summary: Summary) -> str:
    return f"{summary.successes}/{summary.victims}"


def _decibels(summary: Summary) -> str:
    return "-" if summary.psnr is None else f"{summary.psnr:.1f} dB"


def _both(summary: Summary) -> str:
    return f"{_count(summary)}, {_decibels(summary)}"


def _details(words: str, found: Result, summary: Summary) -> list[str]:
    restarts = max(len(victim["restarts"]) for victim in found["victims"])
    method = found["settings"]["method"]
    share = _number(None if summary.restarts is None else 100 * summary.restarts, "{:.0f} %")
    return [
        words,
        LABELS.get(method, method),
        _share(summary),
        _number(summary.psnr, "{:.1f} dB"),
        _number(summary.ssim, "{:.3f}"),
        f"{share} of {restarts} each",
        _number(summary.evaluations, "{:.0f}"),
        _number(summary.seconds, "{:.3g}"),
        f"{found['attack seconds']:.0f}",
    ]


def _share(summary: Summary) -> str:
    low, high = summary.interval
    return (
        f"{summary.successes}/{summary.victims} = {100 * summary.share:.0f} % "
        f"[{100 * low:.0f}, {100 * high:.0f}]"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _plain_table(rows: Sequence[Row]) -> str:
    """One line a cell: successes, and the mean of every number that its victims have."""
    metrics = sorted({key for _, summary in rows for key in summary.means})
    head = ["cell", "success", *metrics, "evaluations", "CPU s", "bar"]
    lines = []
    for found, summary in rows:
        bar = bar_of(found)
        lines.append(
            [
                found["name"],
                _share(summary),
                *(_number(summary.means.get(key), "{:.3f}") for key in metrics),
                _number(found["evaluations"] / max(summary.victims, 1), "{:.0f}"),
                _number(found["cpu seconds"] / max(summary.victims, 1), "{:.3g}"),
                verdict(bar, summary) if bar else "",
            ]
        )
    return table(head, lines)


def _plots(group: str, results: Sequence[Result], folder: Path, pictures: str) -> list[str]:
    made = []

    def add(name: str, draw: Callable[..., None], chosen: Sequence[Result], words: str) -> None:
        draw(folder / f"{name}.png", chosen, LABELS)
        made.append(f"![{words}]({pictures}/{name}.png)")

    drawing = {"phases": plot_phases, "curves": plot_curves}.get(group)
    if drawing is not None:
        for key in sorted({_panel(group, found) for found in results}):
            chosen = [found for found in results if _panel(group, found) == key]
            add(f"{group}.{key}", drawing, chosen, f"{group}: {key}")
    if strips := [found for found in results if "strip" in found]:
        add(f"{group}.pictures", save_strips, strips, f"{group}: true images above, recovered ones below")
    return made


def _panel(group: str, found: Result) -> str:
    """Results of one panel share a plot."""
    settings = found["settings"]
    words = [settings["dataset"], settings["network"], settings["initialisation"]]
    return ".".join(words if group == "phases" else [*words, f"e{settings['epochs']}"])


def _certificates(results: Sequence[Result]) -> list[str]:
    """How many of the certified recoveries succeeded, over all cells."""
    counts: dict[tuple[str, str], list[int]] = {}
    for found in results:
        settings = found["settings"]
        where = found["group"], str(settings.get("dataset", "text"))
        for victim in found["victims"]:
            if "certificate" in victim:
                count = counts.setdefault(where, [0, 0, 0])
                count[0] += 1
                if victim["certificate"] == "certified":
                    count[1] += 1
                    count[2] += bool(victim["success"])
    if not counts:
        return []
    lines = []
    for (group, dataset), (victims, certified, right) in sorted(counts.items()):
        line = [group, dataset, str(victims), str(certified)]
        if certified:
            low, high = wilson(right, certified)
            line.append(f"{100 * right / certified:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
            barred = group == "text" or dataset == "mnist"
            line.append(("≥ 99 %: " + ("holds" if right >= 0.99 * certified else "falls short")) * barred)
        else:
            line += ["-", ""]
        lines.append(line)
    head = ("group", "data", "recoveries", "certified", "of these right", "bar")
    words = """
        Of the recoveries that were called certified, how many had succeeded; on victims that no threshold was
        set on.
        """
    return ["## Certificates", prose(words), table(head, lines)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    folder = parser.parse_args().results.resolve()
    print(f"wrote {write(folder, report_path(folder))}")


if __name__ == "__main__":
    main()
