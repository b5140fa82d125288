"""What the claims must show, cell by cell, and whether they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.claims.summary import Summary

__all__ = ["LEADS", "Bar", "Lead", "bar_of", "lead_lines", "verdict"]


@dataclass(frozen=True)
class Bar:
    """The least that a figure must come to: a share (``success`` or a metric's mean), or a median in dB
    (``psnr``).
    """

    metric: str
    least: float

    @property
    def text(self) -> str:
        return f"≥ {self.least:g} dB" if self.metric == "psnr" else f"≥ {100 * self.least:g} %"

    def value(self, found: Summary) -> float | None:
        """The cell's figure."""
        if self.metric == "psnr":
            return found.psnr
        return found.share if self.metric == "success" else found.means.get(self.metric)


@dataclass(frozen=True)
class Lead:
    """By how many dB the median PSNR of ``sapag`` must be above the best of the rivals'."""

    network: str
    trained: bool
    rivals: tuple[str, ...]
    least: float


_INVERTING = ("inverting", "inverting-tuned")

LEADS = (Lead("convnet", False, _INVERTING, 6.0), Lead("convnet", True, _INVERTING, 2.0))

_EASIER = ("uniform", "kaiming", "normal.1", "normal.5")


def bar_of(found: Mapping[str, Any]) -> Bar | None:
    """The bar for a cell's result; None where there is none (every rival, and what is only to be shown).

    A result may bring its own as ``bar``: ``{"metric": ..., "least": ...}``.
    """
    if "bar" in found:
        return Bar(**found["bar"])
    settings, group = found["settings"], found["group"]
    if settings.get("method") not in ("sapag", "sapag-separated"):
        return None
    trained = settings["epochs"] > 0
    where = settings["dataset"], settings["initialisation"]
    if group == "images":
        return _of_images(*where, trained)
    if group == "batches":
        least = {("mnist", "default"): 0.95, ("cifar", "uniform"): 0.85, ("cifar", "default"): 0.9}.get(where)
        best_found = where == ("cifar", "default") and settings["batch_size"] > 4
        return None if least is None or best_found else Bar("success", least)
    if group == "relu" and settings["network"] == "convnet":
        return Bar("psnr", 26.0 if trained else 35.0)
    return None


def _of_images(dataset: str, initialisation: str, trained: bool) -> Bar | None:
    if dataset == "mnist":
        return Bar("success", 0.9 if trained and initialisation == "xavier" else 0.95)
    if initialisation in _EASIER:
        return Bar("success", 0.9 if trained else 0.95)
    return Bar("success", 0.8) if trained and initialisation == "default" else None


def verdict(bar: Bar, found: Summary) -> str:
    """``≥ 95 %: holds`` or ``≥ 95 %: falls short``."""
    value = bar.value(found)
    return f"{bar.text}: {'holds' if value is not None and value >= bar.least else 'falls short'}"


def lead_lines(cells: Sequence[tuple[Mapping[str, Any], Summary]]) -> list[str]:
    """A line for each lead for which there are both SAPAG's cell and a rival's."""
    lines = []
    for lead in LEADS:
        medians = {
            found["settings"]["method"]: summary.psnr
            for found, summary in cells
            if found["group"] == "relu"
            and found["settings"]["network"] == lead.network
            and (found["settings"]["epochs"] > 0) == lead.trained
        }
        ours = medians.get("sapag")
        theirs = max((medians[name] for name in lead.rivals if medians.get(name) is not None), default=None)
        if ours is None or theirs is None:
            continue
        held = "holds" if ours - theirs >= lead.least else "falls short"
        phase = "trained" if lead.trained else "untrained"
        lines.append(
            f"* {lead.network}, {phase}: {ours - theirs:+.1f} dB over Inverting Gradients' recipe "
            f"(≥ {lead.least:g} dB: {held})."
        )
    return lines
