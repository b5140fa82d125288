"""What an audit found: ``summary.json``, ``summary.csv`` and ``summary.html``, a page of its own."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sapag_fast.audit.folder import AuditFolder, file_name
from sapag_fast.files.output import finite_json, replacing
from sapag_fast.reports.finished import Finished
from sapag_fast.reports.metrics import CLAIMED_SUCCESS_MEANS, SUCCESS_MEANS, SUCCESS_PSNR
from sapag_fast.reports.pictures import is_image, to_picture
from sapag_fast.runtime.extras import needs

with needs("audit", "audits"):
    import jinja2
    from scipy.stats import binomtest

__all__ = ["quantiles", "write_summary"]

GALLERY = 200
"""Victims with pictures on the page."""
_WORST = 10  # of them are marked, one in so many at most
_SIDE = 84  # about, in pixels, of a picture
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MEASURED = ("threshold", "precision", "interval", "below", "measured_on")
_COLUMNS: tuple[str, ...] = (
    "name",
    "status",
    "certificate",
    "distance",
    "evaluations",
    "psnr",
    "ssim",
    "mse",
    "recovered",
    "labels",
    "true_labels",
    "file",
    "reason",
)


def write_summary(
    folder: AuditFolder,
    victims: Sequence[str],
    finished: Iterable[tuple[Finished, Tensor]],
    *,
    status: str,
    truth: bool,
    settings: Mapping[str, Any],
    recipes: Mapping[str, Any],
) -> None:
    """Write the three files from what is finished.

    Parameters
    ----------
    folder : AuditFolder
    victims : sequence of str
        Names of all.
    finished : iterable of (Finished, Tensor)
        Each finished victim and the winning restart's distance at each evaluation.
    status : str
        ``finished`` or ``interrupted``.
    truth : bool
        Whether the true images are known.
    settings, recipes : mapping
        The options, and by group of victims what they came to.
    """
    lines, curves, gallery = [], [], []
    families: dict[str, dict[str, Any]] = {}
    for entry, history in finished:
        lines.append(_line(entry, truth))
        if entry.certificate is not None and entry.certificate["status"] == "certified":
            families[entry.certificate["family"]] = {key: entry.certificate[key] for key in _MEASURED}
        curves.append(history.double().numpy())
        if len(gallery) < GALLERY:
            gallery.append((entry.name, _pictures(entry)))
    figures = _figures(folder, victims, lines, status, truth)
    content = figures | {
        "skipped": folder.skipped,
        "certificates": families,
        "settings": settings,
        "recipes": recipes,
        "at_once": folder.manifest.at_once,
        "threads": folder.manifest.threads,
        "largest_wave": folder.manifest.wave,
        "versions": folder.manifest.versions,
    }
    text = json.dumps(finite_json(content), indent=1, allow_nan=False) + "\n"
    _write(folder.folder / "summary.json", text)
    _write(folder.folder / "summary.csv", _table(victims, lines, folder.skipped))
    _write(folder.folder / "summary.html", _page(content, lines, curves, gallery, truth))


def quantiles(values: Iterable[float]) -> dict[str, float] | None:
    """Median and spread of the values that are no nan, or None where there is none."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return None
    # An infinite value (a perfect picture has an infinite PSNR) has no place between two others.
    found = np.quantile(known, _QUANTILES, method="inverted_cdf")
    return {f"q{round(100 * q):02d}": float(value) for q, value in zip(_QUANTILES, found, strict=True)}


def _line(entry: Finished, truth: bool) -> dict[str, Any]:
    """One finished victim; its scores averaged over its images."""
    line: dict[str, Any] = {
        "name": entry.name,
        "status": entry.status,
        "certificate": "unknown" if entry.certificate is None else entry.certificate["status"],
        "distance": entry.distance,
        "evaluations": entry.evaluations,
        "labels": [] if entry.labels is None else entry.labels.tolist(),
        "true_labels": [] if entry.true_labels is None else entry.true_labels.tolist(),
        "file": f"results/{file_name(entry.name)}.safetensors",
    }
    if truth:
        line["recovered"] = entry.success
        for key in ("psnr", "ssim", "mse"):
            line[key] = float(np.mean([getattr(image, key) for image in entry.scores]))
    return line


def _figures(
    folder: AuditFolder, victims: Sequence[str], lines: Sequence[Mapping[str, Any]], status: str, truth: bool
) -> dict[str, Any]:
    done, minutes = len(lines), folder.seconds / 60
    restarts = folder.manifest.settings["restarts"]
    pace = {
        name: count / minutes if minutes else None
        for name, count in (("victims_per_minute", done), ("recoveries_per_minute", done * restarts))
    }
    evaluations = [line["evaluations"] for line in lines]
    content: dict[str, Any] = {
        "status": status,
        "victims": len(victims),
        "finished": done,
        "skipped_count": len(folder.skipped),
        "waiting": len(victims) - done - len(folder.skipped),
        "restarts": restarts,
        **pace,
        "evaluations": sum(evaluations),
        "evaluations_per_second": sum(evaluations) / folder.seconds if folder.seconds else None,
        "seconds": folder.seconds,
        "sessions": folder.sessions,
        "peak_memory_bytes": folder.peak_memory,
        "certified": sum(line["certificate"] == "certified" for line in lines),
        "non_finite": sum(line["status"] == "non-finite" for line in lines),
        "distance": quantiles(line["distance"] for line in lines),
        "evaluations_of_a_victim": quantiles(evaluations),
    }
    if truth and lines:
        successes = sum(line["recovered"] for line in lines)
        interval = binomtest(successes, done).proportion_ci(method="wilson")
        content |= {
            "recovered": successes,
            "success": successes / done,
            "success_95": [float(interval.low), float(interval.high)],
            "success_means": SUCCESS_MEANS,
            **{key: quantiles(line[key] for line in lines) for key in ("psnr", "ssim", "mse")},
        }
        known = [line for line in lines if line["true_labels"]]
        if known:
            right = [sorted(line["labels"]) == sorted(line["true_labels"]) for line in known]
            content["labels_right"] = sum(right) / len(known)
    return content


def _table(victims: Sequence[str], lines: Sequence[Mapping[str, Any]], skipped: Mapping[str, str]) -> str:
    by_name = {line["name"]: line for line in lines}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for name in victims:
        if name in by_name:
            line = dict(by_name[name])
            line |= {key: " ".join(map(str, line[key])) for key in ("labels", "true_labels")}
            writer.writerow(line)
        elif name in skipped:
            writer.writerow({"name": name, "status": "skipped", "reason": skipped[name]})
        else:
            writer.writerow({"name": name, "status": "waiting"})
    return text.getvalue()


def _page(
    content: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    curves: Sequence[np.ndarray],
    gallery: Sequence[tuple[str, list]],
    truth: bool,
) -> str:
    from sapag_fast.audit import plots as summary_plots  # matplotlib takes a second

    plots = [("Distance along the search", _address(summary_plots.curves(curves)))] if lines else []
    if truth and lines:
        psnr = [line["psnr"] for line in lines]
        plots.insert(0, ("PSNR, sorted", _address(summary_plots.ranked(psnr, "PSNR (dB)", SUCCESS_PSNR))))
        scatter = summary_plots.scatter([line["distance"] for line in lines], psnr, SUCCESS_PSNR)
        plots.append(("PSNR against distance", _address(scatter)))
    elif lines:
        distance = [line["distance"] for line in lines]
        plots.insert(0, ("Distance, sorted", _address(summary_plots.ranked(distance, "distance", None))))
    shown = {line["name"]: line for line in lines[: len(gallery)]}

    def quality(name: str) -> float:
        value = shown[name]["psnr"] if truth else -shown[name]["distance"]
        return -math.inf if math.isnan(value) else value

    worst = set(sorted(shown, key=quality)[: min(_WORST, len(shown) // 4)])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure
    return environment.get_template("summary.html").render(
        content=content,
        plots=plots,
        gallery=[(shown[name], pairs, name in worst) for name, pairs in gallery if pairs],
        truth=truth,
        total=len(lines),
        certified_means=CLAIMED_SUCCESS_MEANS,
    )


def _pictures(entry: Finished) -> list[tuple[str, str | None]]:
    """Addresses of every image and the true one beside it."""
    if not is_image(entry.inputs.shape[1:]):
        return []
    true = [None] * len(entry.inputs) if entry.truth is None else [entry.truth[i] for i in entry.order]
    return [
        (_address(_png(ours)), None if other is None else _address(_png(other)))
        for ours, other in zip(entry.inputs, true, strict=True)
    ]


def _png(image: Tensor) -> bytes:
    picture = to_picture(image)
    factor = _SIDE / max(picture.size)
    if factor < 1:
        picture = picture.resize(
            (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _figure(value: object) -> str:
    """A number as the page shows it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return (
        f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )


def _write(path: Path, text: str) -> None:
    with replacing(path, durable=False) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
