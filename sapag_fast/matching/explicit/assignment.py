"""Which victim's target each row of the batch is matched to."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Assignment"]

_SMALL_MATRIX = 100_000
"""Elements up to which a copy of a matrix for each row costs little."""


class Assignment:
    """Rows r = 0..R-1 searched for ``victims[r]`` of V.

    Parameters
    ----------
    victims : Tensor
        int64 ``[R]``.
    count : int
        V.
    isolated : bool
        Whether a row's products may follow from nothing but that row: then rows that share a matrix do not
        make one product.

    Raises
    ------
    TypeError, ValueError
        For victims that are no such tensor, or not among the V.
    """

    def __init__(self, victims: Tensor, count: int, *, isolated: bool = False) -> None:
        if not isinstance(victims, Tensor) or victims.dtype != torch.int64:
            given = victims.dtype if isinstance(victims, Tensor) else type(victims).__name__
            raise TypeError(f"victims: expected an int64 tensor, found {given}")
        if victims.dim() != 1 or victims.numel() == 0:
            raise ValueError(f"victims: expected shape [R] with R > 0, found {list(victims.shape)}")
        listed = victims.tolist()
        if min(listed) < 0 or max(listed) >= count:
            raise ValueError(f"victims: expected numbers from 0 to {count - 1}, found {listed}")
        self.rows = len(listed)
        self.count = count
        self.victims = victims
        self.isolated = isolated
        self.shared = count == 1 and not isolated
        self.in_order = listed == list(range(count))
        each = self.rows // count
        self.restarts = each if listed == [v for v in range(count) for _ in range(each)] else 0
        groups: dict[int, list[int]] = {}
        for row, victim in enumerate(listed):
            groups.setdefault(victim, []).append(row)
        self.groups = {v: torch.tensor(rows, device=victims.device) for v, rows in groups.items()}

    def pick(self, per_victim: Tensor) -> Tensor:
        """``[V, ...]`` as ``[R, ...]``, or ``[1, ...]`` where all share one."""
        return per_victim if self.shared or self.in_order else per_victim[self.victims]

    def multiply(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """``rows[r] @ matrices[victims[r]]``: ``[R, N, I]`` by ``[V, I, J]``.

        Rows that share a matrix make one product, unless they are isolated.
        """
        inner, outer = matrices.shape[1:]
        if self.isolated:
            return self._multiply_apart(rows, matrices)
        if self.restarts:
            return torch.bmm(rows.reshape(self.count, -1, inner), matrices).view(*rows.shape[:2], outer)
        result = rows.new_empty(*rows.shape[:2], outer)
        for victim, mine in self.groups.items():
            result[mine] = torch.matmul(rows[mine].flatten(0, 1), matrices[victim]).view(len(mine), -1, outer)
        return result

    def _multiply_apart(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Every row's product on its own."""
        if self.in_order or matrices[0].numel() <= _SMALL_MATRIX:
            return torch.bmm(rows, self.pick(matrices))
        result = rows.new_empty(*rows.shape[:2], matrices.shape[2])
        for row, victim in enumerate(self.victims.tolist()):
            torch.bmm(rows[row : row + 1], matrices[victim : victim + 1], out=result[row : row + 1])
        return result
