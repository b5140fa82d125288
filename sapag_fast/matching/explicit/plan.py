"""Which way each matrix is matched: formed, by Gram matrices, or through a factored target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sapag_fast.distances.evaluation import BoundDistance
from sapag_fast.distances.sums import GradientSums
from sapag_fast.matching.explicit.assignment import Assignment
from sapag_fast.matching.explicit.cost import MatrixWork, rates_of, way_costs
from sapag_fast.matching.explicit.evaluation import Evaluation
from sapag_fast.matching.explicit.ghost import GhostTarget, MatrixTarget
from sapag_fast.matching.explicit.low_rank import LowRankTarget, factor, factor_each, stacked

__all__ = ["WAYS", "Matrix", "Way", "choose_ways", "matrices_in", "needs_elements", "same_way"]

WAYS = ("materialised", "ghost", "low-rank")
_MIXED_OVERHEAD = 1.5e-3
"""Seconds that an evaluation takes longer on the CPU once its sums no longer all come from one operator."""


@dataclass(frozen=True)
class Matrix:
    """A parameter whose gradient is Bᵀ A.

    Attributes
    ----------
    rows_a, rows_b : Tensor
        Its rows in one evaluation, ``[R, N, K]`` and ``[R, N, O]``.
    target : Tensor
        ``[V, O, K]``.
    """

    rows_a: Tensor
    rows_b: Tensor
    target: Tensor


@dataclass(frozen=True)
class Way:
    """How one matrix is matched.

    Attributes
    ----------
    name : str
        One of `WAYS`.
    matrix : MatrixTarget or None
        What gives its sums and products; None where g' is formed.
    why : str
        For reports.
    saved : float
        Seconds an evaluation, against forming it.
    unlike : tuple of int
        Victims whose target has too high a rank for the way that would be the others'.
    """

    name: str
    matrix: MatrixTarget | None
    why: str
    saved: float = 0.0
    unlike: tuple[int, ...] = ()


def same_way(way: str) -> dict[str, str]:
    """All parameters one way.

    Raises
    ------
    ValueError
        For an unknown one.
    """
    if way not in WAYS:
        raise ValueError(f"ways: unknown way {way!r}; expected one of {', '.join(WAYS)}")
    return {"": way}


def needs_elements(bound: BoundDistance, size: Tensor) -> bool:
    """Whether the distance sees more than the sums that rows can give: Σ|d|."""
    layers, device = bound.layering.layers, size.device
    ones = torch.ones(1, layers, 6, dtype=torch.float64, device=device)
    ones[..., 5] = torch.nan
    target = torch.ones(1, layers, 3, dtype=torch.float64, device=device)
    sums = GradientSums.from_columns(ones, target, size)
    free = replace(bound, options=bound.options._replace(variance=None))
    return not bool(free.on_sums(sums).isfinite().all())


def matrices_in(evaluation: Evaluation, targets: Mapping[int, Tensor]) -> dict[int, Matrix]:
    """The parameters that can be matched without being formed, by position.

    Parameters
    ----------
    evaluation : Evaluation
        For the shapes and the rows.
    targets : mapping of int to Tensor
        ``[V, *shape]``, by the parameter's position.
    """
    able, unable = set(), set()
    for capture in evaluation.captures:
        matrices_here = capture.rule.matrices_of(capture.module)
        for local, index in capture.parameters.items():
            (able if local in matrices_here else unable).add(index)
    matrices: dict[int, Matrix] = {}
    for index, uses in evaluation.uses(able - unable).items():
        a, b = (torch.cat(side, 1) for side in zip(*map(evaluation.rows, uses), strict=True))
        target = targets[index]
        matrices[index] = Matrix(a, b, target.reshape(*target.shape[:2], -1))
    return matrices


def choose_ways(
    matrices: Mapping[str, Matrix], recoveries: int, assignment: Assignment, *, forced: Mapping[str, str]
) -> dict[str, Way]:
    """Choose a way for each named matrix.

    Parameters
    ----------
    matrices : mapping of str to Matrix
        By parameter name.
    recoveries : int
        R at once.
    assignment : Assignment
        Which victims they search.
    forced : mapping
        Way by parameter name; under ``""`` the one of all others.

    Raises
    ------
    ValueError
        For a forced low rank that the target does not have.
    """
    ways = {}
    for name, matrix in matrices.items():
        way = forced.get(name, forced.get(""))
        if way is not None:
            ways[name] = _forced(name, matrix, way)
        else:
            ways[name] = _cheapest(matrix, recoveries, assignment)
    overhead = _MIXED_OVERHEAD if any(m.target.device.type == "cpu" for m in matrices.values()) else 0.0
    if not forced and sum(way.saved for way in ways.values()) < overhead:
        formed = Way("materialised", None, "too little to gain elsewhere")
        ways = {n: replace(formed, unlike=w.unlike) if w.matrix is not None else w for n, w in ways.items()}
    return ways


def _forced(name: str, matrix: Matrix, way: str) -> Way:
    if way == "materialised":
        return Way(way, None, "asked for")
    if way == "ghost":
        return Way(way, GhostTarget(matrix.target), "asked for")
    if way != "low-rank":
        raise ValueError(f"ways: unknown way {way!r} for {name}; expected one of {', '.join(WAYS)}")
    factors = factor(matrix.target, _rank_bound(matrix))
    if factors is None:
        raise ValueError(
            f"ways: low-rank was asked for {name}, but its target has a rank above {_rank_bound(matrix)}"
        )
    return Way(way, LowRankTarget(*factors), "asked for")


def _rank_bound(matrix: Matrix) -> int:
    """An undefended target is made of as many rows as one recovery's gradient."""
    return min(matrix.rows_a.shape[1], *matrix.target.shape[1:])


def _cheapest(matrix: Matrix, recoveries: int, assignment: Assignment) -> Way:
    rank = _rank_bound(matrix)
    target = matrix.target
    rates = rates_of(target.device, target.dtype)

    def costs(rank: int | None) -> dict[str, float]:
        rows, (outputs, inputs) = matrix.rows_a.shape[1], target.shape[1:]
        return way_costs(MatrixWork(rows, inputs, outputs, recoveries, assignment.shared, rank), rates)

    seconds = costs(rank)
    factors: tuple[Tensor, Tensor] | None = None
    unlike: tuple[int, ...] = ()
    # Factoring takes longer than an evaluation: only where it would be used.
    if _least(seconds) == "low-rank":
        each = factor_each(target, rank)
        if assignment.isolated:
            each = list(each)
            unlike = tuple(victim for victim, its in enumerate(each) if its is None)
        factors = stacked(each)
    if factors is None:
        seconds = costs(None)
    ways: dict[str, MatrixTarget | None] = {"materialised": None}
    if _least(seconds) == "ghost":
        ways["ghost"] = GhostTarget(target)
    if factors is not None:
        ways["low-rank"] = LowRankTarget(*factors)
    seconds = {way: seconds[way] for way in ways}
    best = _least(seconds)
    listed = ", ".join(f"{way} {value * 1e3:.3g} ms" for way, value in seconds.items())
    saved = seconds["materialised"] - seconds[best]
    return Way(best, ways[best], f"estimated: {listed}", saved, unlike)


def _least(seconds: Mapping[str, float]) -> str:
    return min(seconds, key=seconds.__getitem__)
