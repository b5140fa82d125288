"""Matrices whose dummy gradient Bᵀ A is never formed: all comes from the rows of A and B."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sapag_fast.matching.explicit.assignment import Assignment
from sapag_fast.matching.explicit.evaluation import Evaluation, Flow
from sapag_fast.matching.explicit.ghost import MatrixTarget, RowProducts
from sapag_fast.matching.explicit.watch import SUMS_PART, told_apart

__all__ = ["RowMatching"]


class RowMatching:
    """All such matrices of a network.

    Parameters
    ----------
    matrices : mapping of int to MatrixTarget
        By the parameter's position.
    layer_of : mapping of int to int
        The distance's layer of each.
    owners : mapping of int to str
        The network's layer of each; of several that share it the first.
    """

    def __init__(
        self, matrices: Mapping[int, MatrixTarget], layer_of: Mapping[int, int], owners: Mapping[int, str]
    ) -> None:
        self.matrices, self.layer_of, self.owners = matrices, layer_of, owners

    def add_sums(
        self, evaluation: Evaluation, assignment: Assignment, difference: Tensor
    ) -> dict[int, RowProducts]:
        """Add the matrices' sums to `difference` ``[R, L, 6]``.

        Returns
        -------
        dict of int to RowProducts
            What the products need of this evaluation, by the parameter's position.
        """
        by_rows: dict[int, RowProducts] = {}
        for index, uses in evaluation.uses(self.matrices).items():
            rows = [evaluation.rows(use) for use in uses]
            a, b = rows[0]
            if len(rows) > 1:
                a, b = torch.cat([a for a, _ in rows], 1), torch.cat([b for _, b in rows], 1)
            of_rows = told_apart(evaluation.watch, self.owners[index], SUMS_PART, self.matrices[index].sums)
            sums, by_rows[index] = of_rows(a, b, assignment)
            difference[:, self.layer_of[index]] += sums
        for index, matrix in self.matrices.items():
            if index not in by_rows:
                # Not formed, and no call reached it.
                difference[:, self.layer_of[index]] += matrix.sums_of_zero(assignment)
        return by_rows

    def flows(
        self,
        evaluation: Evaluation,
        by_rows: Mapping[int, RowProducts],
        coefficients: Tensor,
        *,
        constant: bool,
    ) -> dict[int, list[Flow]]:
        """The products' derivatives, by the call's position.

        Parameters
        ----------
        evaluation : Evaluation
        by_rows : mapping of int to RowProducts
            From `add_sums`.
        coefficients : Tensor
            Of V, float64 ``[R, L, 5]``.
        constant : bool
            Whether V has a constant part γ.
        """
        flows: dict[int, list[Flow]] = {}
        for index, uses in evaluation.uses(self.matrices).items():
            products = told_apart(evaluation.watch, self.owners[index], SUMS_PART, by_rows[index].products)
            toward = products(
                coefficients[:, self.layer_of[index]],
                constant=constant,
                wants_a=any(use.call.wants_a for use in uses),
                wants_b=any(use.call.wants_b for use in uses),
            )
            sizes = [evaluation.rows(use)[0].shape[1] for use in uses]
            parts = [[None] * len(sizes) if side is None else side.split(sizes, 1) for side in toward]
            for use, to_a, to_b in zip(uses, *parts, strict=True):
                dtype = use.call.b.dtype
                mine = (
                    to_a.to(dtype) if to_a is not None and use.call.wants_a else None,
                    to_b.to(dtype) if to_b is not None and use.call.wants_b else None,
                )
                flows.setdefault(use.position, []).append(evaluation.from_rows(use, mine))
        return flows
