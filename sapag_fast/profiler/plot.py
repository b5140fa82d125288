"""A profile as a picture: the stages of a step over R, and the roofline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sapag_fast.files.output import replacing
from sapag_fast.profiler.stages import STAGES
from sapag_fast.runtime.extras import needs

if TYPE_CHECKING:  # the results import this module to show themselves
    from sapag_fast.profiler.result import AttackProfile

with needs("audit", "plots of profiles"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

__all__ = ["draw"]

_COLOURS = ("#2f6690", "#6fa3c7", "#b3412e", "#e0a458", "#4f7d5c", "#b9a7c9", "#8a8f98")
_GAPS = "host gaps"
_MARKERS = "osD^vP*X"


def draw(profile: AttackProfile, path: Path) -> None:
    """Write the PNG, at once or not at all."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(left, profile)
    _roofline(right, profile)
    shape = "x".join(map(str, profile.input_shape))
    figure.suptitle(f"{profile.model}, {shape}: {profile.machine['device']}", fontsize=10, parse_math=False)
    with replacing(path, durable=False) as temporary, temporary.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)


def _bars(axes: Axes, profile: AttackProfile) -> None:
    positions = np.arange(len(profile.levels))
    bottom = np.zeros(len(profile.levels))
    for colour, name in zip(_COLOURS, (*STAGES, _GAPS), strict=True):
        each = [
            level.gap if name == _GAPS else sum(stage.seconds for stage in level.stages if stage.name == name)
            for level in profile.levels
        ]
        heights = (
            np.array([s / level.recoveries for s, level in zip(each, profile.levels, strict=True)]) * 1e3
        )
        axes.bar(positions, heights, 0.65, bottom=bottom, color=colour, label=name)
        bottom += heights
    for position, top, level in zip(positions, bottom, profile.levels, strict=True):
        axes.annotate(f"{level.evaluations_per_second:,.0f}/s", (position, top), ha="center", va="bottom")
    axes.set_xticks(positions, [f"R={level.recoveries}\n{level.mode}" for level in profile.levels])
    axes.set_ylabel("ms for each evaluation and recovery")
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _roofline(axes: Axes, profile: AttackProfile) -> None:
    """Stages without matrix products are left out."""
    ceilings = profile.ceilings
    points = [
        (number, stage)
        for number, level in enumerate(profile.levels)
        for stage in level.stages
        if stage.work.flops and stage.work.bytes and stage.whole
    ]
    intensities = [stage.work.flops / stage.work.bytes for _, stage in points] or [1.0]
    x = np.geomspace(min(*intensities, 0.1) / 2, max(*intensities, 100.0) * 2, 200)
    for bandwidth, style, what in (
        (ceilings.memory_bandwidth, "-", "memory"),
        (ceilings.cache_bandwidth, "--", "cache"),
    ):
        roof = np.minimum(x * bandwidth, ceilings.flop_rate) / 1e9
        axes.plot(x, roof, style, color="#333333", linewidth=1, label=f"{what} {bandwidth / 1e9:.3g} GB/s")
    for number, stage in points:
        axes.plot(
            stage.work.flops / stage.work.bytes,
            stage.work.flops / stage.whole / 1e9,
            _MARKERS[number % len(_MARKERS)],
            color=_COLOURS[STAGES.index(stage.name)],
            markersize=6,
        )
    for number, level in enumerate(profile.levels):
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot([], [], marker, color="#333333", label=f"R={level.recoveries}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP for each byte of operands")
    axes.set_ylabel("GFLOP/s")
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
