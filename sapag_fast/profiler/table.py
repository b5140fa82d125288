"""A profile on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sapag_fast.profiler.work import Work
from sapag_fast.runtime.extras import needs
from sapag_fast.runtime.screen import plain_text
from sapag_fast.runtime.streams import shown

if TYPE_CHECKING:  # the results import this module to show themselves
    from sapag_fast.profiler.result import AttackProfile, Level

with needs("cli", "tables of profiles"):
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

__all__ = ["tables"]

_MIB = 2**20


def tables(profile: AttackProfile) -> Group:
    """Rates over R, the stages of each R, the layers of the largest, and what to do next."""
    parts = [_heading(profile), _rates(profile)]
    parts += [_stages(level) for level in profile.levels]
    if profile.levels and profile.levels[-1].layers:
        parts.append(_layers(profile.levels[-1]))
    parts += [Text(f"R={count} was skipped: {reason}.") for count, reason in profile.skipped.items()]
    parts += [Text(f"Warning: {shown(caution.message)}.") for caution in profile.warnings]
    parts.append(Text(f"Next bottleneck. {profile.bottleneck}", style="bold"))
    return Group(*parts)


def _heading(profile: AttackProfile) -> Text:
    machine, ceilings = profile.machine, profile.ceilings
    shape = "x".join(map(str, profile.input_shape))
    return Text(
        f"{shown(profile.model)}, {profile.batch_size} x {shape}, {profile.recipe['distance']} with "
        f"{profile.recipe['optimizer']}, {profile.recipe['steps']} evaluations a recovery\n"
        f"{machine['device']}, {machine['threads']} thread(s), {machine['dtype']}: "
        f"{ceilings.flop_rate / 1e9:.3g} GFLOP/s, {ceilings.memory_bandwidth / 1e9:.3g} GB/s from memory, "
        f"{ceilings.cache_bandwidth / 1e9:.3g} GB/s from cache (measured)"
    )


def _table(title: str, first: tuple[str, ...], *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in first:
        table.add_column(name, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _rates(profile: AttackProfile) -> Table:
    columns = (
        "ms a step",
        "evaluations/s",
        "recoveries/h",
        "peak MiB",
        "launches",
        "stages/wall",
        "undisturbed",
    )
    table = _table("Rates", ("R", "batched"), *columns)
    for level in profile.levels:
        launches = "-" if level.launches is None else f"{level.launches:.0f}"
        table.add_row(
            str(level.recoveries),
            level.mode,
            f"{(level.graph_seconds or level.step_seconds) * 1e3:.3g}",
            f"{level.evaluations_per_second:,.0f}",
            f"{level.recoveries_per_hour:,.0f}",
            f"{level.peak_bytes / _MIB:.1f}",
            launches,
            f"{level.accounted:.1%}",
            f"{level.accounted_undisturbed:.1%}",
        )
    return table


def _stages(level: Level) -> Table:
    table = _table(
        f"A step at R={level.recoveries}",
        ("stage",),
        "ms",
        "of a step",
        "gaps ms",
        "GFLOP",
        "MB",
        "of the roof",
    )
    whole = sum(stage.whole for stage in level.stages)
    for stage in level.stages:
        table.add_row(
            stage.name,
            f"{stage.seconds * 1e3:.3f}",
            f"{stage.seconds / whole:.1%}",
            f"{stage.gap * 1e3:.3f}",
            *_work(stage.work),
            f"{stage.roofline:.0%} ({stage.bound_by})",
        )
    table.add_row("host gaps", f"{level.gap * 1e3:.3f}", f"{level.gap / whole:.1%}", "", "", "", "")
    table.add_row("sum", f"{whole * 1e3:.3f}", "100.0%", "", "", "", "", style="bold")
    return table


def _layers(level: Level) -> Table:
    table = _table(
        f"Layers at R={level.recoveries}: their forward and their part of the sums",
        ("layer", "rule", "way", "why"),
        *("forward ms", "sums ms", "of a step", "GFLOP", "MB"),
    )
    for layer in sorted(level.layers, key=lambda layer: -layer.share):
        ways = ", ".join(dict.fromkeys(layer.ways.values()))
        reasons = dict.fromkeys(layer.why[name] for name in layer.ways)
        # A vector has no choice, and a layer with a matrix need not say so.
        said = [why for why in reasons if why != "no matrix"] or list(reasons)
        table.add_row(
            plain_text(layer.layer or "(the model)"),
            layer.rule,
            ways,
            "; ".join(said),
            f"{layer.forward_seconds * 1e3:.3f}",
            f"{layer.sums_seconds * 1e3:.3f}",
            f"{layer.share:.1%}",
            *_work(layer.work),
        )
    return table


def _work(work: Work) -> tuple[str, str]:
    return f"{work.flops / 1e9:.3g}", f"{work.bytes / 1e6:.3g}"
