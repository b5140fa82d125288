"""Which way each matrix is matched: formed, by Gram matrices, or through a factored target."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sapag_fast.distances.autograd import Settings
from sapag_fast.distances.sums import GradientSums
from sapag_fast.matching.explicit.assignment import Assignment
from sapag_fast.matching.explicit.cost import MatrixWork, rates_of, way_costs
from sapag_fast.matching.explicit.ghost import GhostTarget, MatrixTarget
from sapag_fast.matching.explicit.low_rank import LowRankTarget, factor

__all__ = ["WAYS", "Choice", "Matrix", "choose_ways", "needs_elements", "same_way"]

WAYS = ("materialised", "ghost", "low-rank")
_MIXED_OVERHEAD = 1.5e-3
"""Seconds that an evaluation takes longer on the CPU once its sums no longer all come from one operator."""


@dataclass(frozen=True)
class Matrix:
    """A parameter whose gradient is Bᵀ A: its rows in one evaluation and its target ``[V, O, K]``."""

    rows_a: Tensor
    rows_b: Tensor
    target: Tensor


@dataclass(frozen=True)
class Choice:
    """``matrix``: None where g' is formed. ``why`` is for reports; ``saved`` seconds an evaluation."""

    way: str
    matrix: MatrixTarget | None
    why: str
    saved: float = 0.0


def same_way(way: str) -> dict[str, str]:
    """All parameters one way. Raises ValueError for an unknown one."""
    if way not in WAYS:
        raise ValueError(f"ways: unknown way {way!r}; expected one of {', '.join(WAYS)}")
    return {"": way}


def needs_elements(settings: Settings) -> bool:
    """Whether the distance sees more than the sums that rows can give: Σ|d|."""
    layers, device = settings.found.layers, settings.size.device
    ones = torch.ones(1, layers, 6, dtype=torch.float64, device=device)
    ones[..., 5] = torch.nan
    target = torch.ones(1, layers, 3, dtype=torch.float64, device=device)
    sums = GradientSums.from_columns(ones, target, settings.size)
    return not bool(replace(settings, variance=None).on_sums(sums).isfinite().all())


def choose_ways(
    matrices: Mapping[str, Matrix],
    recoveries: int,
    assignment: Assignment,
    *,
    forced: Mapping[str, str],
    calibrate: bool,
) -> dict[str, Choice]:
    """A choice for each named matrix.

    Parameters
    ----------
    forced : mapping
        Way by parameter name; under ``""`` the one of all others.
    calibrate : bool
        Measure each way on these rows instead of believing the cost model.

    Raises
    ------
    ValueError
        For a forced low rank that the target does not have.
    """
    choices = {}
    for name, matrix in matrices.items():
        way = forced.get(name, forced.get(""))
        if way is not None:
            choices[name] = _forced(name, matrix, way)
        else:
            choices[name] = _cheapest(matrix, recoveries, assignment, calibrate=calibrate)
    free = [c for name, c in choices.items() if forced.get(name, forced.get("")) is None]
    overhead = _MIXED_OVERHEAD if any(m.target.device.type == "cpu" for m in matrices.values()) else 0.0
    if not forced and sum(c.saved for c in free) < overhead:
        formed = Choice("materialised", None, "too little to gain elsewhere")
        choices = {name: formed if c.matrix is not None else c for name, c in choices.items()}
    return choices


def _forced(name: str, matrix: Matrix, way: str) -> Choice:
    if way == "materialised":
        return Choice(way, None, "asked for")
    if way == "ghost":
        return Choice(way, GhostTarget(matrix.target), "asked for")
    if way != "low-rank":
        raise ValueError(f"ways: unknown way {way!r} for {name}; expected one of {', '.join(WAYS)}")
    found = factor(matrix.target, _rank_bound(matrix))
    if found is None:
        raise ValueError(
            f"ways: low-rank was asked for {name}, but its target has a rank above {_rank_bound(matrix)}"
        )
    return Choice(way, LowRankTarget(*found), "asked for")


def _rank_bound(matrix: Matrix) -> int:
    """An undefended target is made of as many rows as one recovery's gradient."""
    return min(matrix.rows_a.shape[1], *matrix.target.shape[1:])


def _cheapest(matrix: Matrix, recoveries: int, assignment: Assignment, *, calibrate: bool) -> Choice:
    rank = _rank_bound(matrix)
    target = matrix.target
    rates = rates_of(target.device, target.dtype)

    def costs(rank: int | None) -> dict[str, float]:
        rows, (outputs, inputs) = matrix.rows_a.shape[1], target.shape[1:]
        return way_costs(MatrixWork(rows, inputs, outputs, recoveries, assignment.shared, rank), rates)

    seconds = costs(rank)
    factored = None
    # Factoring takes longer than an evaluation: only where it would be used.
    if calibrate or min(seconds, key=seconds.__getitem__) == "low-rank":
        factored = factor(target, rank)
    if factored is None:
        seconds = costs(None)
    ghost = GhostTarget(target) if calibrate or min(seconds, key=seconds.__getitem__) == "ghost" else None
    ways: dict[str, MatrixTarget | None] = {"materialised": None}
    if ghost is not None:
        ways["ghost"] = ghost
    if factored is not None:
        ways["low-rank"] = LowRankTarget(*factored)
    if calibrate:
        seconds = {way: _measure(matrix, ways[way], assignment) for way in ways}
    seconds = {way: seconds[way] for way in ways}
    best = min(seconds, key=seconds.__getitem__)
    told = ", ".join(f"{way} {value * 1e3:.3g} ms" for way, value in seconds.items())
    why = f"{'measured' if calibrate else 'estimated'}: {told}"
    return Choice(best, ways[best], why, seconds["materialised"] - seconds[best])


def _measure(matrix: Matrix, way: MatrixTarget | None, assignment: Assignment) -> float:
    """Seconds for sums and products of these rows; the best of three."""
    a, b = matrix.rows_a, matrix.rows_b
    coefficients = torch.ones(a.shape[0], 5, dtype=torch.float64, device=a.device)

    def formed() -> None:
        gradient = torch.bmm(b.transpose(1, 2), a)
        # Stands for the fused operator: reads g' and G, writes V.
        slope = gradient - assignment.pick(matrix.target)
        torch.bmm(b, slope)
        torch.bmm(a, slope.transpose(1, 2))

    def by_rows() -> None:
        _, rows = way.sums(a, b, assignment)
        rows.products(coefficients, constant=False, wants_a=True, wants_b=True)

    return min(_seconds(formed if way is None else by_rows, a.device) for _ in range(3))


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
