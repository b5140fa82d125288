"""The plots of an audit's page, as PNG bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np

from sapag_fast.runtime.extras import needs

with needs("audit", "audits"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

__all__ = ["curves", "ranked", "scatter"]

_BLUE, _RED, _GREY = "#2f6690", "#b3412e", "#8a8f98"


def ranked(values: Sequence[float], label: str, threshold: float | None) -> bytes:
    """Values of all victims from the best to the worst: PSNR with the threshold of success, or distances."""
    figure, axes = _plot()
    finite = np.sort([value for value in values if math.isfinite(value)])
    shown = finite[::-1] if threshold is not None else finite
    axes.plot(np.arange(1, len(shown) + 1), shown, ".-", color=_BLUE, markersize=3, linewidth=1)
    if threshold is not None:
        _mark(axes, threshold)
    elif len(shown) and shown[0] > 0:
        axes.set_yscale("log")
    axes.set_xlabel("victims, best first")
    axes.set_ylabel(label)
    return _png(figure)


def curves(histories: Sequence[np.ndarray]) -> bytes:
    """Median and quantiles over the victims of the winning restart's distance, the lowest so far."""
    figure, axes = _plot()
    longest = max((len(history) for history in histories), default=0)
    if longest:
        table = np.full((len(histories), longest), np.nan)
        for row, history in zip(table, histories, strict=True):
            if len(history):
                lowest = np.fmin.accumulate(history)
                row[: len(history)], row[len(history) :] = lowest, lowest[-1]
        table = table[~np.isnan(table).all(1)]
        low, quarter, middle, three, high = np.nanquantile(table, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
        steps = np.arange(1, longest + 1)
        axes.fill_between(steps, low, high, color=_BLUE, alpha=0.15, linewidth=0, label="5 to 95 %")
        axes.fill_between(steps, quarter, three, color=_BLUE, alpha=0.3, linewidth=0, label="25 to 75 %")
        axes.plot(steps, middle, color=_BLUE, linewidth=1.5, label="median")
        if np.nanmin(table) > 0:
            axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("evaluations")
    axes.set_ylabel("lowest distance")
    return _png(figure)


def scatter(distances: Sequence[float], psnr: Sequence[float], threshold: float) -> bytes:
    """PSNR of each victim against its distance."""
    figure, axes = _plot()
    points = [(d, p) for d, p in zip(distances, psnr, strict=True) if math.isfinite(d) and math.isfinite(p)]
    if points:
        x, y = np.array(points).T
        axes.scatter(x, y, s=10, c=np.where(y >= threshold, _BLUE, _RED), linewidths=0)
        if x.min() > 0:
            axes.set_xscale("log")
    _mark(axes, threshold)
    axes.set_xlabel("distance")
    axes.set_ylabel("PSNR (dB)")
    return _png(figure)


def _plot() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.3), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    return figure, axes


def _mark(axes: Axes, height: float) -> None:
    axes.axhline(height, color=_GREY, linestyle="--", linewidth=1)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
