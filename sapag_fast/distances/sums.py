"""The sums that every distance is a function of, and their plain differentiable form.

The compiled kernels produce the same numbers; this form is what second derivatives go through, and what
shows in one page which sums there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.distances.layering import Layering, layer_sizes, rows_of

# Columns of the kernels' outputs, in order.
DIFFERENCE_COLUMNS = ("sum", "square", "cross", "dummy_square", "inner", "absolute")
TARGET_COLUMNS = ("target_sum", "target_square", "target_deviation")


@dataclass(frozen=True)
class GradientSums:
    """Sums over each layer of each recovery; with d = g' - g, dummy gradient g', target gradient g.

    All are float64 of shape ``[R, L]``, the target's ``[1, L]`` where one target is shared; ``size`` is
    ``[L]``.
    ``dummy_square`` and ``inner`` follow from the others on paper; they are summed on their own because
    they keep their accuracy where the dummy gradient is much smaller or larger than the target.
    """

    sum: Tensor  # Σ d
    square: Tensor  # Σ d²
    cross: Tensor  # Σ d·g
    dummy_square: Tensor  # Σ g'²
    inner: Tensor  # Σ g'·g
    absolute: Tensor  # Σ |d|
    target_sum: Tensor  # Σ g
    target_square: Tensor  # Σ g²
    target_deviation: Tensor  # Σ (g - mean g)², n times the biased variance
    size: Tensor  # elements n

    @classmethod
    def from_columns(cls, difference: Tensor, target: Tensor, size: Tensor) -> "GradientSums":
        """From the kernels' outputs, ``[R, L, 6]`` and ``[R or 1, L, 3]``, and the layers' sizes ``[L]``."""
        plain, square, cross, dummy_square, inner, absolute = difference.unbind(-1)
        target_sum, target_square, deviation = target.unbind(-1)
        return cls(
            plain, square, cross, dummy_square, inner, absolute, target_sum, target_square, deviation, size
        )


def _by_layer(parts: list[Tensor], layer_of: Sequence[int], layers: int) -> Tensor:
    """Add up per-tensor sums [R, columns] into [R, layers, columns], in the tensors' order."""
    rows: list[Tensor] = [parts[0].new_zeros(parts[0].shape)] * layers
    for part, layer in zip(parts, layer_of, strict=True):
        rows[layer] = rows[layer] + part
    return torch.stack(rows, dim=1)


def _rows(tensor: Tensor, batched: bool) -> Tensor:
    return rows_of(tensor, batched).double()


def target_sums(target: Sequence[Tensor], layering: Layering, batched: bool) -> Tensor:
    """Σ g, Σ g² and Σ (g - mean)² of each layer, float64 ``[R or 1, L, 3]``.

    The deviations are taken from each layer's own mean in a second pass: Σ g² - (Σ g)²/n would lose them.
    """
    rows = [_rows(t, batched) for t in target]
    first = _by_layer(
        [torch.stack([g.sum(1), (g * g).sum(1)], -1) for g in rows], layering.layer_of, layering.layers
    )
    mean = first[..., 0] / layer_sizes(target, layering, batched).clamp(min=1)
    deviation = [
        (g - mean[:, layer : layer + 1]).square().sum(1, keepdim=True)
        for g, layer in zip(rows, layering.layer_of, strict=True)
    ]
    return torch.cat([first, _by_layer(deviation, layering.layer_of, layering.layers)], -1)


def difference_sums(
    dummy: Sequence[Tensor], target: Sequence[Tensor], layering: Layering, batched: bool
) -> Tensor:
    """The six sums that change at every step, float64 ``[R, L, 6]``; differentiable in both arguments."""
    parts = []
    for mine, theirs in zip(dummy, target, strict=True):
        a, g = _rows(mine, batched), _rows(theirs, batched)
        d = a - g
        columns = (d, d * d, d * g, a * a, a * g, d.abs())
        parts.append(torch.stack([column.sum(1) for column in columns], -1))
    return _by_layer(parts, layering.layer_of, layering.layers)
