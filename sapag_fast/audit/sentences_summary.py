"""What an audit of sentences found: ``summary.json``, ``summary.csv`` and ``summary.html``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sapag_fast.audit.folder import AuditFolder
from sapag_fast.audit.summary import quantiles, write_texts
from sapag_fast.files.names import csv_table
from sapag_fast.files.output import finite_json
from sapag_fast.reports.sentences import SENTENCE_SUCCESS_MEANS, FoundSentence
from sapag_fast.runtime.extras import needs
from sapag_fast.runtime.streams import shown
from sapag_fast.text.certificate import CERTIFIED_STATUS, UP_TO_ORDER
from sapag_fast.text.recovery import EXACT

with needs("audit", "audits"):
    import jinja2
    from scipy.stats import binomtest

__all__ = ["write_sentences_summary"]

_SCORES = ("positions", "recall", "rouge1", "rouge2", "rougeL")
_COLUMNS = (
    *(
        "name",
        "status",
        "certificate",
        "source",
        "distance",
        "evaluations",
        "scored",
        "label",
        "true_label",
        "recovered",
    ),
    *(*_SCORES, "sentence", "truth", "file", "reason"),
)
_TEMPLATES = Path(__file__).with_name("templates")


def write_sentences_summary(
    folder: AuditFolder,
    victims: Sequence[str],
    found: Sequence[FoundSentence],
    *,
    status: str,
    settings: Mapping[str, Any],
    recipe: Mapping[str, Any],
) -> None:
    """Write the three files from what is finished.

    Parameters
    ----------
    folder : AuditFolder
        Open.
    victims : sequence of str
        Names of all.
    found : sequence of FoundSentence
        Every finished victim's.
    status : str
        ``finished`` or ``interrupted``.
    settings, recipe : mapping
        The options, and the recipe in force.
    """
    all_warnings = [warning for entry in found for warning in entry.details["warnings"]]
    content = {
        **_figures(folder, victims, found, status),
        "skipped": folder.skipped,
        "warnings": list({warning["message"]: warning for warning in all_warnings}.values()),
        "settings": settings,
        "recipe": recipe,
        "threads": folder.manifest.threads,
        "versions": folder.manifest.versions,
    }
    lines = [_line(folder, entry) for entry in found]
    done = {entry.name for entry in found}
    rest = [
        {
            "name": name,
            "status": "skipped" if name in folder.skipped else "waiting",
            "reason": folder.skipped.get(name, ""),
        }
        for name in victims
        if name not in done
    ]
    content = finite_json(content)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown(value) if type(value) is str else value,
    )
    page = environment.get_template("sentences.html").render(content=content, lines=lines, rest=rest)
    write_texts(
        folder.folder,
        {
            "summary.json": json.dumps(content, indent=1, allow_nan=False) + "\n",
            "summary.csv": csv_table(_COLUMNS, [*lines, *rest]),
            "summary.html": page,
        },
    )


def _line(folder: AuditFolder, entry: FoundSentence) -> dict[str, Any]:
    certificate = entry.certificate or {}
    line: dict[str, Any] = {
        "name": entry.name,
        "status": entry.status,
        "certificate": certificate.get("status", ""),
        "source": entry.details["source"],
        "distance": entry.distance,
        "evaluations": entry.evaluations,
        "scored": entry.details["scored"],
        "label": None if entry.labels is None else int(entry.labels[0]),
        "true_label": "" if entry.true_labels is None else int(entry.true_labels[0]),
        "sentence": entry.words,
        "truth": entry.true_text or "",
        "file": folder.result_path(entry.name).relative_to(folder.folder).as_posix(),
        "reason": certificate.get("reason", ""),
    }
    if entry.text_scores is not None:
        line |= {"recovered": entry.success, **asdict(entry.text_scores)}
    return line


def _figures(
    folder: AuditFolder, victims: Sequence[str], found: Sequence[FoundSentence], status: str
) -> dict[str, Any]:
    statuses = [(entry.certificate or {}).get("status") for entry in found]
    content: dict[str, Any] = {
        "status": status,
        "victims": len(victims),
        "finished": len(found),
        "skipped_count": len(folder.skipped),
        "waiting": len(victims) - len(found) - len(folder.skipped),
        "restarts": folder.manifest.settings["restarts"],
        "seconds": folder.sessions.seconds,
        "sessions": len(folder.sessions),
        "peak_memory_bytes": folder.sessions.peak_memory,
        "certified": statuses.count(CERTIFIED_STATUS),
        "certified_up_to_order": statuses.count(UP_TO_ORDER),
        "exact": sum(entry.details["source"] == EXACT for entry in found),
        "distance": quantiles(entry.distance for entry in found),
        "evaluations_of_a_victim": quantiles(entry.evaluations for entry in found),
    }
    scores = [entry.text_scores for entry in found if entry.text_scores is not None]
    if scores:
        successes = sum(score.success for score in scores)
        interval = binomtest(successes, len(scores)).proportion_ci(method="wilson")
        content |= {
            "recovered": successes,
            "scored": len(scores),
            "success": successes / len(scores),
            "success_95": [float(interval.low), float(interval.high)],
            "success_means": SENTENCE_SUCCESS_MEANS,
            **{name: quantiles(getattr(score, name) for score in scores) for name in _SCORES},
        }
    labelled = [entry for entry in found if entry.labels is not None and entry.true_labels is not None]
    if labelled:
        right = [int(entry.labels[0]) == int(entry.true_labels[0]) for entry in labelled]  # type: ignore[index]
        content["labels_right"] = sum(right) / len(labelled)
    return content
