"""The claims' plots and picture grids, as PNG files."""

from __future__ import annotations

import base64
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from benchmarks.claims.summary import summarise
from sapag_fast.files.output import replacing

__all__ = ["plot_curves", "plot_phases", "save_strips"]

Results = Sequence[Mapping[str, Any]]
_CAPTION, _GAP = 170, 4


def plot_phases(path: Path, results: Results, labels: Mapping[str, str]) -> None:
    """Success against epochs of training and the accuracy they led to, a line a method, with Wilson's
    intervals.
    """
    figure = Figure(figsize=(5.2, 3.3), layout="constrained")
    axes = figure.add_subplot()
    places = sorted({found["settings"]["epochs"] for found in results})
    for method, ours in _by_method(results).items():
        ours = sorted(ours, key=lambda found: found["settings"]["epochs"])
        shares = [summarise(found) for found in ours]
        x = [places.index(found["settings"]["epochs"]) for found in ours]
        low = [100 * max(s.share - s.interval[0], 0) for s in shares]
        high = [100 * max(s.interval[1] - s.share, 0) for s in shares]
        y = [100 * s.share for s in shares]
        name = labels.get(method, method)
        axes.errorbar(x, y, (low, high), marker="o", markersize=3, capsize=2, label=name)
    reached = {found["settings"]["epochs"]: found["accuracy"] for found in results}
    axes.set_xticks(range(len(places)), [_tick(place, reached[place]) for place in places])
    axes.set_xlabel("epochs of training\naccuracy, mean over the networks")
    axes.set_ylabel("recovered, %")
    axes.set_ylim(-4, 104)
    _finish(figure, axes, path)


def _tick(epochs: int, accuracy: Sequence[float | None]) -> str:
    known = [one for one in accuracy if one is not None]
    return f"{epochs}\n{100 * statistics.fmean(known):.0f} %" if known else str(epochs)


def plot_curves(path: Path, results: Results, labels: Mapping[str, str]) -> None:
    """Median distance (relative to its first value) and median PSNR against evaluations, a line a method."""
    figure = Figure(figsize=(9.6, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method, ours in _by_method(results).items():
        for found in ours:
            curve = found["curve"]
            first = curve["distance"][0]
            if first:
                relative = [math.nan if d is None else d / first for d in curve["distance"]]
                left.plot(curve["evaluations"], relative, label=labels.get(method, method))
            right.plot(curve["evaluations"], curve["psnr"], label=labels.get(method, method))
    left.set_yscale("log")
    left.set_ylabel("lowest distance / first")
    right.set_ylabel("PSNR, dB")
    for axes in (left, right):
        axes.set_xlabel("evaluations")
    left.grid(alpha=0.25, linewidth=0.5)
    _finish(figure, right, path)


def save_strips(path: Path, results: Results, labels: Mapping[str, str]) -> None:
    """The pictured cells' strips below one another, each with its caption."""
    strips = [(found, Image.open(io.BytesIO(base64.b64decode(found["strip"])))) for found in results]
    width = _CAPTION + max(strip.width for _, strip in strips)
    height = sum(strip.height + _GAP for _, strip in strips)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(), 0
    for found, strip in strips:
        draw.multiline_text((_GAP, top), _caption(found["settings"], labels), fill="black", font=font)
        sheet.paste(strip, (_CAPTION, top))
        top += strip.height + _GAP
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _caption(settings: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    words = [f"{settings['dataset']} {settings['network']} {settings['initialisation']}"]
    words.append(f"{settings['epochs']} epochs")
    if settings["batch_size"] > 1:
        words[-1] += f", B = {settings['batch_size']}"
    words += [" ".join(settings["defence"])] if settings["defence"] else []
    return "\n".join([*words, labels.get(settings["method"], settings["method"])])


def _by_method(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for found in results:
        methods.setdefault(found["settings"]["method"], []).append(found)
    return methods


def _finish(figure: Figure, axes: Any, path: Path) -> None:
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False, fontsize=7)
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
