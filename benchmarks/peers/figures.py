"""What follows from the runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.peers.workers import Outcome, Run

__all__ = ["figures"]


def figures(runs: Iterable[Run], shared: int) -> dict[str, dict[str, Any]]:
    """For each contender and budget: success, PSNR, evaluations, times, successes an hour, memory; and the
    budget at which there are most successes an hour.

    The time of a success counts the failures too: nobody knows beforehand which victims will fail. Success
    and PSNR are those on the first `shared` victims, which all contenders have in common.
    """
    by_name: dict[str, dict[int, list[Run]]] = {}
    for run in runs:
        by_name.setdefault(run.contender, {}).setdefault(run.budget, []).append(run)
    found = {}
    for name, budgets in by_name.items():
        rows = {str(budget): _row(same, shared) for budget, same in sorted(budgets.items())}
        best = max(rows, key=lambda budget: rows[budget]["recoveries an hour"])
        found[name] = {"best budget": int(best), "budgets": rows}
    return found


def _row(runs: Sequence[Run], shared: int) -> dict[str, Any]:
    outcomes = [outcome for run in runs for outcome in run.outcomes]
    seconds = sum(run.seconds for run in runs)
    evaluations = sum(outcome.evaluations for outcome in outcomes)
    won = sum(outcome.success for outcome in outcomes)
    # Contenders that take all victims in every round find the same again: each victim counts once.
    common = {outcome.victim: outcome for outcome in outcomes if outcome.victim < shared}.values()
    watched = [outcome for outcome in outcomes if outcome.watched]
    at = [outcome.success_at for outcome in watched if outcome.success_at is not None]
    return {
        "victims": len({outcome.victim for outcome in outcomes}),
        "shared victims": sorted(outcome.victim for outcome in common),
        "recovered of these": sorted(outcome.victim for outcome in common if outcome.success),
        "median PSNR": statistics.median(outcome.psnr for outcome in common),
        "evaluations a victim": evaluations / len(outcomes),
        "evaluations to success": statistics.median(at) if at else None,
        "ms an evaluation": 1e3 * seconds * runs[0].processes * runs[0].threads / evaluations,
        "seconds": seconds,
        "seconds a success": seconds / won if won else None,
        "recoveries an hour": 3600 * won / seconds,
        "in hindsight": _hindsight(watched, seconds / evaluations),
        "peak MiB": max(run.memory * run.processes for run in runs) / 2**20,
    }


def _hindsight(outcomes: Sequence[Outcome], seconds: float) -> float | None:
    """Successes an hour, had every search been stopped after the number of evaluations that serves the
    contender best, and nothing been lost between an iterate's first success and that number. The truth alone
    tells that number, so it is more than a user of the tool can reach. None where no search was watched;
    ``seconds`` is the time of an evaluation.
    """
    if not outcomes:
        return None
    rates = [0.0]
    for stop in {outcome.success_at for outcome in outcomes if outcome.success_at is not None}:
        won = sum(outcome.success_at is not None and outcome.success_at <= stop for outcome in outcomes)
        spent = sum(min(outcome.evaluations, stop) for outcome in outcomes)
        rates.append(3600 * won / (spent * seconds))
    return max(rates)
