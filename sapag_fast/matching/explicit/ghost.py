"""Matching a matrix gradient g' = Bᵀ A to a target G without forming it: from the Gram matrices of its rows.

With d = g' - G,

    Σ g'² = <A Aᵀ, B Bᵀ>      Σ g'·G = <B, A Gᵀ>      Σ g' = Σ_n (Σ_k A_nk)(Σ_o B_no)

and for V = c₁ g' + c₂ G + γ the products are

    A Vᵀ = c₁ (A Aᵀ) B + c₂ A Gᵀ + γ (Σ_k A) 1ᵀ        B V = c₁ (B Bᵀ) A + c₂ B G + γ (Σ_o B) 1ᵀ.

Everything is float64: near the target Σ d² is a small difference of large numbers, and so are the products.
What is left of that cancellation, 1e-16 of Σ G², lies far below what the float32 rows themselves carry.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.matching.explicit.assignment import Assignment

__all__ = ["GhostTarget", "MatrixTarget"]


class MatrixTarget:
    """Target G ``[V, O, K]`` of one matrix, never subtracted from anything of its own size.

    Subclasses know how to multiply with it.
    """

    way = "ghost"

    def __init__(self, total: Tensor, square: Tensor) -> None:
        self.total = total  # Σ G, [V]
        self.square = square  # Σ G², [V]

    def times_transposed(self, rows_a: Tensor, assignment: Assignment) -> Tensor:
        """A Gᵀ ``[R, N, O]``."""
        raise NotImplementedError

    def times(self, rows_b: Tensor, assignment: Assignment) -> Tensor:
        """B G ``[R, N, K]``."""
        raise NotImplementedError

    def sums(self, rows_a: Tensor, rows_b: Tensor, assignment: Assignment) -> tuple[Tensor, RowProducts]:
        """The six sums float64 ``[R, 6]`` of `distances.sums`, and what the products need of them.

        Σ |d| cannot be had: it is nan, so that nobody mistakes it for a number.
        """
        a, b = rows_a.double(), rows_b.double()
        gram_a, gram_b = torch.bmm(a, a.transpose(1, 2)), torch.bmm(b, b.transpose(1, 2))
        onto_target = self.times_transposed(a, assignment)
        dummy_square = (gram_a * gram_b).sum((1, 2))
        inner = (b * onto_target).sum((1, 2))
        square = assignment.pick(self.square)
        plain = (a.sum(2) * b.sum(2)).sum(1) - assignment.pick(self.total)
        # Rounding may leave a tiny negative number where g' = G.
        difference = (dummy_square - 2 * inner + square).clamp(min=0)
        columns = (plain, difference, inner - square, dummy_square, inner, torch.full_like(inner, torch.nan))
        return torch.stack(columns, -1), RowProducts(self, assignment, a, b, gram_a, gram_b, onto_target)

    def sums_of_zero(self, assignment: Assignment) -> Tensor:
        """The same for g' = 0, of a matrix that no row reached."""
        total, square = assignment.pick(self.total), assignment.pick(self.square)
        none = torch.zeros_like(square)
        return torch.stack((-total, square, -square, none, none, torch.full_like(none, torch.nan)), -1)


class RowProducts:
    """The rows of one evaluation and their Gram matrices, float64."""

    def __init__(
        self,
        target: MatrixTarget,
        assignment: Assignment,
        a: Tensor,
        b: Tensor,
        gram_a: Tensor,
        gram_b: Tensor,
        onto_target: Tensor,
    ) -> None:
        self.target = target
        self.assignment = assignment
        self.a, self.b = a, b
        self.gram_a, self.gram_b = gram_a, gram_b
        self.onto_target = onto_target

    def products(
        self, coefficients: Tensor, *, constant: bool, wants_a: bool, wants_b: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """(B V, A Vᵀ) for V = α·d + β·G + ε·g' + γ.

        Parameters
        ----------
        coefficients : Tensor
            float64 ``[R, 5]``: α, β, ε, γ, and δ = 0.
        constant : bool
            Without it γ is 0.
        wants_a, wants_b : bool
            Which of the two products.
        """
        alpha, beta, epsilon, gamma, _ = coefficients.view(-1, 5, 1, 1).unbind(1)
        onto_dummy, onto_target = alpha + epsilon, beta - alpha
        toward_a = toward_b = None
        if wants_a:
            toward_a = self.target.times(onto_target * self.b, self.assignment)
            toward_a.baddbmm_(onto_dummy * self.gram_b, self.a)
        if wants_b:
            toward_b = onto_target * self.onto_target
            toward_b.baddbmm_(onto_dummy * self.gram_a, self.b)
        if constant:
            toward_a = None if toward_a is None else toward_a.add_(gamma * self.b.sum(2, keepdim=True))
            toward_b = None if toward_b is None else toward_b.add_(gamma * self.a.sum(2, keepdim=True))
        return toward_a, toward_b


class GhostTarget(MatrixTarget):
    """G as it is, in float64."""

    def __init__(self, target: Tensor) -> None:
        self.target = target.double()
        super().__init__(self.target.sum((1, 2)), self.target.square().sum((1, 2)))

    def times_transposed(self, rows_a: Tensor, assignment: Assignment) -> Tensor:
        """A Gᵀ ``[R, N, O]``."""
        return assignment.multiply(rows_a, self.target.transpose(1, 2))

    def times(self, rows_b: Tensor, assignment: Assignment) -> Tensor:
        """B G ``[R, N, K]``."""
        return assignment.multiply(rows_b, self.target)
