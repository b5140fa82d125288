"""The steps of batched L-BFGS by the C++ kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.search.optimizers.armijo import Verdict
from sapag_fast.search.optimizers.compiled import lbfgs_step, padded_columns, padded_products
from sapag_fast.search.optimizers.rows import Rows

__all__ = ["CompiledSteps"]

_MEMORY = (
    "steps",
    "changes",
    "products",
    "slot",
    "pairs",
    "calls",
    "scale",
    "previous_step",
    "previous_gradient",
)


class CompiledSteps:
    """One recovery at a time in cache, in parallel over recoveries; csrc/cpu/lbfgs.inl has the procedure.

    Sums run in float64 in an order that depends on N alone: the bits of a recovery depend neither on the
    number of threads nor on which others share the batch.
    """

    def __init__(self, rows: Rows, size: int, history: int, lr: float, dtype: torch.dtype) -> None:
        self._rows, self.lr = rows, lr
        columns = padded_columns(size)
        rows.add("steps", (history, columns), dtype)
        rows.add("changes", (history, columns), dtype)
        rows.add("products", (history, padded_products(history)), torch.float64)
        rows.add("slot", (), torch.int64)
        rows.add("pairs", (), torch.int64)
        rows.add("calls", (), torch.int64)
        rows.add("scale", (), torch.float64, fresh=1.0)
        rows.add("previous_step", (size,), dtype)
        rows.add("previous_gradient", (size,), dtype)

    def take(self, gradient: Tensor, verdict: Verdict | None) -> tuple[Tensor, Tensor]:
        """Change ``[R, N]`` and, with a verdict, slope ``[R]``."""
        memory = (self._rows[name] for name in _MEMORY)
        if verdict is None:
            return lbfgs_step(gradient, *memory, self.lr, None, None, None)
        judged = (verdict.action, verdict.length, verdict.next_length)
        return lbfgs_step(gradient, *memory, self.lr, *judged)
