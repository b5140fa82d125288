"""The peers' table and plot from ``peers.json``: nothing in them is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.contenders import OURS
from benchmarks.report.markdown import machine_line, prose, table

__all__ = ["peers_section", "write_plot"]

_HEAD = (
    "contender",
    "evaluations allowed",
    "success",
    "PSNR",
    "evaluations to success",
    "ms an evaluation",
    "seconds a success",
    "successes an hour",
    "ours over it",
    "in hindsight",
    "ours over it in hindsight",
    "peak MiB",
)
_PLOT = "peers.png"


def _figure(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None else format(value, form)


def _over(ours: list[dict[str, Any]], row: dict[str, Any]) -> tuple[str, str]:
    """How many times ours is ahead, as run and in hindsight, by its fastest row that recovers as many of the
    contender's victims or more. At least so many where the contender had no success: one more attempt that
    succeeds would have made one in all its time.
    """
    tried, won = set(row["shared victims"]), len(row["recovered of these"])
    equal = [own for own in ours if len(tried.intersection(own["recovered of these"])) >= won]
    if not equal:
        return ("fewer successes" if ours else "-",) * 2

    def ahead(kind: str) -> str:
        mine, rate = max(own[kind] or 0.0 for own in equal), row[kind]
        if not mine or rate is None:
            return "-"
        return f"{mine / rate:.1f}×" if rate else f"> {mine * row['seconds'] / 3600:.0f}×"

    return ahead("recoveries an hour"), ahead("in hindsight")


def _rows(contenders: dict[str, Any]) -> list[list[str]]:
    ours = [row for name, entry in contenders.items() if name in OURS for row in entry["budgets"].values()]
    rows = []
    for name, entry in contenders.items():
        for budget, row in entry["budgets"].items():
            over, over_in_hindsight = ("-", "-") if name in OURS else _over(ours, row)
            best = int(budget) == entry["best budget"] and row["recoveries an hour"] > 0
            rows.append(
                [
                    name,
                    f"**{budget}**" if best else budget,
                    f"{len(row['recovered of these'])}/{len(row['shared victims'])}",
                    f"{row['median PSNR']:.1f} dB",
                    _figure(row["evaluations to success"], ".0f"),
                    _figure(row["ms an evaluation"]),
                    _figure(row["seconds a success"]),
                    f"{row['recoveries an hour']:,.0f}",
                    over,
                    _figure(row["in hindsight"], ",.0f"),
                    over_in_hindsight,
                    f"{row['peak MiB']:.0f}",
                ]
            )
    return rows


def peers_section(found: dict[str, Any] | None) -> str:
    """Markdown from the result file, or nothing where the peers have not been measured."""
    if not found:
        return ""
    plan = found["plan"]
    parts = [
        "## Whole recoveries beside the tools that people use",
        prose(
            f"""
            `make peers DATA=FOLDER`. Sigmoid LeNet, untrained; {plan["victims"]}
            victims fixed by seed, which nothing was tuned on, the first few of them for
            the long budgets; {plan["cores"]} cores. Every contender works in as many
            processes as cores or in one with all threads, whichever is faster for it,
            and they take turns. Budgets of the peers: as many evaluations as our recipe
            takes and a third of that, their own published number (DLG and iDLG end
            sooner where their optimiser stands still), for the others also one in
            between; more than 6000 in the first case alone;
            breaching's own configuration takes colour images only. Peers start from the same standard
            normal numbers, taken as pixels (DLG, iDLG) or normalised pixels (the
            others), as published; *sapag_fast* is `recover` as it comes, one search a
            victim, R at once in a process, also from DLG's very start (*noise start*).
            Bold: the budget at which a contender recovers most an hour. *Success*: mean
            squared error below 0.01, on the victims that all share. Seconds a success
            count the failures' time too. Milliseconds are of one core, seconds and
            rates of all. *Evaluations to success*: until an iterate is one, of those
            searches in which one is, their median; for it the same searches run once
            more, untimed. *In hindsight* is the rate had every search been stopped at
            the number of evaluations that serves the tool best, which the truth alone
            tells. *Ours over it*: our rate at our fastest row that recovers as many of
            the same victims or more, over the tool's, both as run, and then both in
            hindsight; with no success, over what one success in all that time would
            have made. Peak memory is of all processes together, over what they held
            before.
            """
        ),
    ]
    for case, measured in found["cases"].items():
        parts += [f"{case}:", table(_HEAD, _rows(measured["contenders"]))]
    parts.append(f"![Successes an hour](results/{_PLOT})")
    return "\n\n".join([*parts, machine_line(found)])


def write_plot(found: dict[str, Any], folder: Path) -> None:
    """Successes an hour of each contender at its best budget, a panel a case, as ``peers.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second
    from matplotlib.figure import Figure

    cases = found["cases"]
    figure = Figure(figsize=(1.6 + 3.2 * len(cases), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(cases), squeeze=False, sharey=True)[0]
    for axis, (case, measured) in zip(axes, cases.items(), strict=True):
        names = list(measured["contenders"])
        rates = [
            entry["budgets"][str(entry["best budget"])]["recoveries an hour"]
            for entry in measured["contenders"].values()
        ]
        colours = ["tab:orange" if name in OURS else "tab:blue" for name in names]
        bars = axis.barh(names, [max(rate, 1.0) for rate in rates], color=colours)
        axis.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=2)
        axis.set(xscale="log", title=case, xlabel="successes an hour")
        axis.margins(x=0.3)
    axes[0].invert_yaxis()
    figure.savefig(folder / _PLOT, dpi=110)
