"""Per-recovery memory that recoveries can leave, enter anew, and be saved from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Rows"]


class Rows:
    """Named tensors ``[R, ...]``, each with the value that a fresh recovery has there.

    Parameters
    ----------
    recoveries : int
        R.
    device : torch.device or str
    """

    def __init__(self, recoveries: int, device: torch.device | str) -> None:
        self.recoveries = recoveries
        self.device = torch.device(device)
        self._tensors: dict[str, Tensor] = {}
        self._fresh: dict[str, float] = {}

    def add(self, name: str, shape: Sequence[int], dtype: torch.dtype, fresh: float = 0) -> None:
        """Add a tensor ``[R, *shape]`` of fresh values."""
        self._fresh[name] = fresh
        self._tensors[name] = torch.full((self.recoveries, *shape), fresh, device=self.device, dtype=dtype)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        # Written to, not replaced: a captured graph reads the tensors that were there at its capture.
        self._tensors[name].copy_(value)

    def fill(self, name: str, rows: Tensor, value: float) -> None:
        """Fill one tensor of these recoveries (int64 ``[rows]``) with `value`."""
        self._tensors[name].index_fill_(0, self._rows_of(rows), value)

    def keep(self, rows: Tensor) -> None:
        """Keep these recoveries only, in this order; one that is named twice is there twice from now on."""
        rows = self._rows_of(rows)
        for name, tensor in self._tensors.items():
            self._tensors[name] = tensor.index_select(0, rows)
        self.recoveries = rows.numel()

    def restart(self, rows: Tensor) -> None:
        """Give these recoveries fresh values again."""
        rows = self._rows_of(rows)
        for name, tensor in self._tensors.items():
            tensor.index_fill_(0, rows, self._fresh[name])

    def state(self) -> dict[str, Tensor]:
        """Copy all tensors."""
        return {name: tensor.clone() for name, tensor in self._tensors.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned, with its number of recoveries.

        Raises
        ------
        ValueError
            When names, dtypes or shapes (but for R) are not those of this optimiser.
        """
        if state.keys() != self._tensors.keys():
            raise ValueError(f"state: expected the tensors {sorted(self._tensors)}, found {sorted(state)}")
        recoveries = {tensor.shape[0] for tensor in state.values() if tensor.dim()}
        for name, own in self._tensors.items():
            found = state[name]
            if found.dtype != own.dtype or found.dim() != own.dim() or found.shape[1:] != own.shape[1:]:
                raise ValueError(
                    f"state: expected {name} of {own.dtype} and shape {['R', *own.shape[1:]]}, "
                    f"found {found.dtype} {list(found.shape)}"
                )
        if len(recoveries) != 1:
            raise ValueError(f"state: expected one number of recoveries, found {sorted(recoveries)}")
        for name, found in state.items():
            fresh = torch.empty(found.shape, dtype=found.dtype, device=self.device)
            self._tensors[name] = fresh.copy_(found)
        self.recoveries = recoveries.pop()

    def _rows_of(self, rows: Tensor) -> Tensor:
        if rows.dtype != torch.int64 or rows.dim() != 1:
            raise ValueError(
                f"rows: expected int64 of shape [rows], found {rows.dtype} of shape {list(rows.shape)}"
            )
        return rows.to(self.device)
