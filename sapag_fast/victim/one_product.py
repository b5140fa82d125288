"""Whether the last layer's gradient is that of one input, to the last digit.

Of one input it is a product of two vectors, what flows back and what comes in, each entry rounded once. Of
several it is a sum of such products. Where these are of one label, what comes in differs little, and the sum
looks like a product, whose input is the mean of theirs; but beyond rounding it is none.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ONE", "departure"]

ONE = 0.7
"""The largest `departure` of one input's gradient.

Of digits before LeNets and perceptrons at most 0.45, 0.63 once clipped; of two digits of one label, whose
mean would be certified, 1.15 at least where that differs from them by a mean square of 0.01.
"""


def departure(gradient: Tensor) -> float:
    """By how much a matrix ``[rows, columns]`` is no product of two vectors, in units of its rounding.

    The largest singular value of the entries' relative errors, over that of as many independent errors of
    half a unit in the last place. Rows and columns of zeros tell nothing; nan where fewer than two columns or
    three rows (they sum to zero) are left, and where numbers are not finite.
    """
    kind = torch.finfo(gradient.dtype)
    matrix = gradient.detach().double().cpu()
    if not bool(torch.isfinite(matrix).all()):
        return float("nan")
    sizes = matrix.abs()
    # Numbers near the type's smallest have lost digits.
    matrix = matrix[sizes.amax(1) > kind.tiny / kind.eps] if matrix.numel() else matrix
    matrix = matrix[:, (matrix.abs() > kind.tiny / kind.eps).all(0)]
    if matrix.shape[0] < 3 or matrix.shape[1] < 2:  # rows of cross-entropy sum to zero: two are one
        return float("nan")
    sizes = matrix.abs()
    signs = matrix.sign() * matrix[:1].sign() * matrix[:, :1].sign() * matrix[0, 0].sign()
    logs = sizes.log()
    product = (logs.mean(1, keepdim=True) + logs.mean(0) - logs.mean()).exp()
    errors = signs * sizes / product - 1.0
    errors = errors - errors.mean(1, keepdim=True) - errors.mean(0) + errors.mean()
    rounding = max(kind.eps, 16 * torch.finfo(torch.float64).eps) / 2
    rows, columns = matrix.shape
    return float(torch.linalg.matrix_norm(errors, 2)) / (rounding * (rows**0.5 + columns**0.5))
