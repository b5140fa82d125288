"""What an audit found: ``summary.json``, ``summary.csv`` and ``summary.html``, a page of its own."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.page import Gallery, page
from sapag_fast.files.names import csv_table
from sapag_fast.files.output import finite_json, replacing
from sapag_fast.recovery.result import EXACT
from sapag_fast.reports.finished import Finished
from sapag_fast.reports.metrics import SUCCESS_MEANS
from sapag_fast.runtime.extras import needs
from sapag_fast.victim.cautions import Caution

with needs("audit", "audits"):
    from scipy.stats import binomtest

__all__ = ["quantiles", "write_summary", "write_texts"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MEASURED = ("threshold", "precision", "interval", "below", "measured_on")
_COLUMNS: tuple[str, ...] = (
    "name",
    "status",
    "certificate",
    "distance",
    "evaluations",
    "source",
    "psnr",
    "ssim",
    "mse",
    "recovered",
    "labels",
    "label_source",
    "label_reason",
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
    unscored: Mapping[str, str] | None,
    settings: Mapping[str, Any],
    recipes: Mapping[str, Any],
    cautions: Sequence[Caution] = (),
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
    unscored : mapping of str to str, or None
        Why a victim has no scores, by name; None where no true images are known.
    settings, recipes : mapping
        The options, and by group of victims what they came to.
    cautions : sequence of Caution
        What makes recoveries worse than they look.
    """
    lines, curves, gallery = [], [], Gallery()
    families: dict[str, dict[str, Any]] = {}
    for entry, history in finished:
        lines.append(_line(folder, entry))
        told = entry.certificate or {}
        if told.get("status") == "certified" and told["precision"] is not None:
            families[told["family"]] = {key: told[key] for key in _MEASURED}
        curves.append(history.double().numpy())
        gallery.add(lines[-1], entry)
    figures = _figures(folder, victims, lines, status)
    content = figures | {
        "skipped": folder.skipped,
        **({} if unscored is None else {"unscored": unscored}),
        "warnings": [asdict(caution) for caution in cautions],
        "certificates": families,
        "settings": settings,
        "recipes": recipes,
        "at_once": folder.manifest.at_once,
        "threads": folder.manifest.threads,
        "largest_wave": folder.manifest.wave,
        "versions": folder.manifest.versions,
    }
    text = json.dumps(finite_json(content), indent=1, allow_nan=False) + "\n"
    table = csv_table(_COLUMNS, _rows(victims, lines, {**(unscored or {}), **folder.skipped}))
    write_texts(folder.folder, {"summary.json": text, "summary.csv": table})
    write_texts(folder.folder, {"summary.html": page(content, lines, curves, gallery)})


def quantiles(values: Iterable[float]) -> dict[str, float] | None:
    """Median and spread of the values that are no nan, or None where there is none."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return None
    # An infinite value (a perfect picture has an infinite PSNR) has no place between two others.
    found = np.quantile(known, _QUANTILES, method="inverted_cdf")
    return {f"q{round(100 * q):02d}": float(value) for q, value in zip(_QUANTILES, found, strict=True)}


def _line(folder: AuditFolder, entry: Finished) -> dict[str, Any]:
    """One finished victim; its scores averaged over its images."""
    line: dict[str, Any] = {
        "name": entry.name,
        "status": entry.status,
        "certificate": "unknown" if entry.certificate is None else entry.certificate["status"],
        "distance": entry.distance,
        "evaluations": entry.evaluations,
        "source": entry.details.get("source", ""),
        "labels": [] if entry.labels is None else _plain(entry.labels),
        "label_source": entry.label_source,
        "label_reason": entry.label_reason,
        "true_labels": [] if entry.true_labels is None else entry.true_labels.tolist(),
        "file": folder.result_path(entry.name).relative_to(folder.folder).as_posix(),
    }
    if entry.scores:
        line["recovered"] = entry.success
        for key in ("psnr", "ssim", "mse"):
            line[key] = float(np.mean([getattr(image, key) for image in entry.scores]))
    return line


def _plain(labels: Tensor) -> list:
    """One entry for each image: its class, its one target, or a list of its targets."""
    return labels.flatten().tolist() if labels.numel() == len(labels) else labels.tolist()


def _figures(
    folder: AuditFolder, victims: Sequence[str], lines: Sequence[Mapping[str, Any]], status: str
) -> dict[str, Any]:
    done, minutes = len(lines), folder.sessions.seconds / 60
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
        "evaluations_per_second": sum(evaluations) / folder.sessions.seconds
        if folder.sessions.seconds
        else None,
        "seconds": folder.sessions.seconds,
        "sessions": len(folder.sessions),
        "peak_memory_bytes": folder.sessions.peak_memory,
        "certified": sum(line["certificate"] == "certified" for line in lines),
        "exact": sum(line["source"] == EXACT for line in lines),
        "label_sources": dict(Counter(line["label_source"] for line in lines if line["label_source"])),
        "non_finite": sum(line["status"] == "non-finite" for line in lines),
        "distance": quantiles(line["distance"] for line in lines),
        "evaluations_of_a_victim": quantiles(evaluations),
    }
    known = [line for line in lines if "recovered" in line]
    if known:
        successes = sum(line["recovered"] for line in known)
        interval = binomtest(successes, len(known)).proportion_ci(method="wilson")
        content |= {
            "recovered": successes,
            "scored": len(known),
            "success": successes / len(known),
            "success_95": [float(interval.low), float(interval.high)],
            "success_means": SUCCESS_MEANS,
            **{key: quantiles(line[key] for line in known) for key in ("psnr", "ssim", "mse")},
        }
        labelled = [line for line in known if line["true_labels"]]
        if labelled:
            right = [sorted(line["labels"]) == sorted(line["true_labels"]) for line in labelled]
            content["labels_right"] = sum(right) / len(labelled)
    return content


def _rows(
    victims: Sequence[str], lines: Sequence[Mapping[str, Any]], reasons: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    by_name = {line["name"]: line for line in lines}
    for name in victims:
        if name in by_name:
            labels = {key: " ".join(map(str, by_name[name][key])) for key in ("labels", "true_labels")}
            yield {**by_name[name], **labels, "reason": reasons.get(name, "")}
        elif name in reasons:
            yield {"name": name, "status": "skipped", "reason": reasons[name]}
        else:
            yield {"name": name, "status": "waiting"}


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write as many of the files as the disk takes, then say which it does not."""
    faults = []
    for name, text in texts.items():
        try:
            with replacing(folder / name, durable=False) as temporary:
                temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
        except OSError as error:
            faults.append(f"file {folder / name}: cannot be written: {error.strerror or error}")
    if faults:
        raise ValueError(f"{'; '.join(faults)}; all results are kept")
