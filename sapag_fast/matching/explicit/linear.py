"""Linear layers: g'_W = Bᵀ A over all rows, g'_bias = Σ b."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sapag_fast.matching.explicit.rules import LayerCall, Rule, register_rule

__all__ = ["LinearCall", "LinearRule"]


class LinearCall(LayerCall[nn.Linear]):
    """a ``[R, rows, ..., K]``, b ``[R, rows, ..., O]``: all dimensions between are rows."""

    def rows(self, name: str) -> tuple[Tensor, Tensor]:
        """A and B themselves, all dimensions between batch and features flattened."""
        return self.a.flatten(1, -2), self.b.flatten(1, -2)

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Bᵀ A and Σ b."""
        gradients = {}
        rows_a, rows_b = self.rows("weight")
        for name in names:
            if name == "bias":
                gradients[name] = rows_b.sum(1)
            else:
                memory = self.reused(name, rows_a.shape[0], rows_b.shape[2], rows_a.shape[2])
                gradients[name] = torch.bmm(rows_b.transpose(1, 2), rows_a, out=memory)
        return gradients

    def products(self, weights: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """B V toward a; A Vᵀ and the bias's V toward b."""
        rows_a, rows_b = self.rows("weight")
        toward_a = toward_b = None
        if (weight := weights.get("weight")) is not None:
            toward_a = torch.bmm(rows_b, weight) if self.wants_a else None
            toward_b = torch.bmm(rows_a, weight.transpose(1, 2)) if self.wants_b else None
        if (bias := weights.get("bias")) is not None and self.wants_b:
            bias = bias.unsqueeze(1).expand_as(rows_b)
            toward_b = bias if toward_b is None else toward_b.add_(bias)
        return self.from_rows(toward_a, toward_b)

    def from_rows(
        self, toward_rows_a: Tensor | None, toward_rows_b: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """In the shapes of a and b."""
        return (
            None if toward_rows_a is None else toward_rows_a.reshape(self.a.shape),
            None if toward_rows_b is None else toward_rows_b.reshape(self.b.shape),
        )


class LinearRule(Rule):
    """``nn.Linear``, with any number of dimensions between batch and features."""

    name = "linear"
    matrices = frozenset({"weight"})

    def call(self, module: nn.Linear, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool) -> LayerCall:
        """A call of matrix products."""
        return LinearCall(module, a, b, wants_a=wants_a, wants_b=wants_b)


register_rule(nn.Linear, LinearRule())
