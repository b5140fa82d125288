"""DLG and iDLG (Zhu et al., NeurIPS 2019; Zhao et al., 2020): the inner sum of their loops.

from sapag_fast.integrations.dlg import gradient_difference
grad_diff = gradient_difference(dummy_dy_dx, original_dy_dx)  # in place of the loop over zip(...)
grad_diff.backward()

The loops' ``torch.optim.LBFGS`` takes steps of rate 1 without a line search. The kinds ``sapag...`` are flat
far from the target, and need ``line_search_fn="strong_wolfe"``, ``tolerance_grad=1e-12`` and
``tolerance_change=1e-15`` there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sapag_fast.distances.kind import Kind
from sapag_fast.integrations.both import both_lists
from sapag_fast.integrations.kept import kept

__all__ = ["gradient_difference"]


def gradient_difference(
    dummy_dy_dx: Iterable[Tensor | None],
    original_dy_dx: Iterable[Tensor | None],
    kind: str | Kind = "l2",
    **options: Any,
) -> Tensor:
    """Σ (g' - g)² over all gradients, or another `kind` with its options.

    Shape ``()``, differentiable in the dummy gradient. Pairs of None are left out.
    """
    mine, given = both_lists("dummy_dy_dx", dummy_dy_dx, "original_dy_dx", original_dy_dx)
    return kept(kind, **options)(mine, given)
