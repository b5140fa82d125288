"""Targets of low rank, factored once.

An undefended gradient of a matrix is Bᵀ A of the victim's own rows, so its rank is at most their number N.
With G = Pᵀ Q all that ghost matching needs of G costs no more than the rows themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sapag_fast.matching.explicit.assignment import Assignment
from sapag_fast.matching.explicit.ghost import MatrixTarget

__all__ = ["LowRankTarget", "factor", "factor_each", "stacked"]

_OVERSAMPLING = 8
_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}
"""Largest ‖G - Pᵀ Q‖/‖G‖ that passes for rounding, by the target's dtype."""


def factor(target: Tensor, rank: int) -> tuple[Tensor, Tensor] | None:
    """Factor targets as G = Pᵀ Q, up to their own rounding.

    Parameters
    ----------
    target : Tensor
        G, ``[V, O, K]``.
    rank : int
        The largest that is tried.

    Returns
    -------
    tuple of Tensor, or None
        P ``[V, rank, O]`` and Q ``[V, rank, K]``, float64; None if a victim's target has a higher rank.
    """
    return stacked(factor_each(target, rank))


def stacked(each: Iterable[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor] | None:
    """All victims' factors as of `factor`; None, and no further one asked for, at the first None."""
    factored = []
    for factors in each:
        if factors is None:
            return None
        factored.append(factors)
    left, right = zip(*factored, strict=True)
    return torch.stack(left), torch.stack(right)


def factor_each(target: Tensor, rank: int) -> Iterator[tuple[Tensor, Tensor] | None]:
    """Each victim's factors ``[rank, O]`` and ``[rank, K]``, one after the other; None of a higher rank.

    Notes
    -----
    A randomised range finder (Halko, Martinsson, Tropp, "Finding structure with randomness", 2011, algorithm
    4.1) with one power iteration; the residual decides.
    """
    tolerance = _TOLERANCE.get(target.dtype, 1e-6)
    generator = torch.Generator().manual_seed(0)
    columns = min(rank + _OVERSAMPLING, *target.shape[1:])
    probe = torch.randn(target.shape[2], columns, generator=generator, dtype=torch.float64)
    probe = probe.to(target.device)
    for matrix in target:
        matrix = matrix.double()
        norm = torch.linalg.vector_norm(matrix)
        if not bool(norm.isfinite()):
            yield None
            continue
        basis = torch.linalg.qr(matrix @ probe).Q
        basis = torch.linalg.qr(matrix @ (matrix.T @ basis)).Q
        # Of the oversampled basis only the best directions: what is beyond the rank is rounding.
        u, s, v = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
        p, q = (basis @ u[:, :rank] * s[:rank]).T.contiguous(), v[:rank]
        fits = not bool(torch.linalg.vector_norm(matrix - p.T @ q) > tolerance * norm)
        yield (p, q) if fits else None


class LowRankTarget(MatrixTarget):
    """G = Pᵀ Q with P ``[V, M, O]``, Q ``[V, M, K]``."""

    way = "low-rank"

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right
        grams = torch.bmm(left, left.transpose(1, 2)) * torch.bmm(right, right.transpose(1, 2))
        super().__init__((left.sum(2) * right.sum(2)).sum(1), grams.sum((1, 2)))

    def times_transposed(self, rows_a: Tensor, assignment: Assignment) -> Tensor:
        """A Qᵀ P ``[R, N, O]``."""
        small = assignment.multiply(rows_a, self.right.transpose(1, 2))
        return assignment.multiply(small, self.left)

    def times(self, rows_b: Tensor, assignment: Assignment) -> Tensor:
        """B Pᵀ Q ``[R, N, K]``."""
        small = assignment.multiply(rows_b, self.left.transpose(1, 2))
        return assignment.multiply(small, self.right)
