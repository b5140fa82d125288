"""What all batched optimisers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sapag_fast.search.optimizers.rows import Rows

__all__ = ["Optimizer"]


class Optimizer(ABC):
    """Turns gradients into steps, and keeps one memory for each recovery.

    Parameters
    ----------
    rows : Rows
        The memory; all of it, so that a recovery is gone, fresh or saved once its rows are.
    size : int
        N.
    dtype : torch.dtype
        Of variables and gradients.
    """

    def __init__(self, rows: Rows, size: int, dtype: torch.dtype) -> None:
        self._rows, self.size, self.dtype = rows, size, dtype

    @abstractmethod
    def step(self, gradient: Tensor, objective: Tensor | None = None) -> Tensor:
        """Compute the change to add to the variables; the caller must apply it before the next call.

        Parameters
        ----------
        gradient : Tensor
            ``[R, N]``, at the present variables.
        objective : Tensor, optional
            ``[R]``, at the present variables, for line searches.

        Returns
        -------
        Tensor
            ``[R, N]``.

        Raises
        ------
        ValueError
            When the gradient has another shape or dtype, or is on another device.
        """

    def _check(self, gradient: Tensor) -> None:
        rows = self._rows
        shape = (rows.recoveries, self.size)
        if (
            gradient.shape != shape
            or gradient.dtype != self.dtype
            or gradient.device.type != rows.device.type
        ):
            raise ValueError(
                f"gradient: expected {self.dtype} of shape {list(shape)} on {rows.device}, "
                f"found {gradient.dtype} of shape {list(gradient.shape)} on {gradient.device}"
            )

    def keep(self, rows: Tensor) -> None:
        """Keep these recoveries only, in this order; R becomes their number.

        Parameters
        ----------
        rows : Tensor
            int64 ``[rows]``. One that is named twice is there twice from then on: room for another, after a
            `restart`.
        """
        self._rows.keep(rows)

    def restart(self, rows: Tensor) -> None:
        """Begin these recoveries (int64 ``[rows]``) anew, whatever their numbers had turned into."""
        self._rows.restart(rows)

    def resume(self, rows: Tensor) -> None:  # noqa: B027 (an optimiser may have nothing to forget)
        """Go on with another objective, at variables of the caller's choice.

        What is known of the curvature stays, the last step and its objective are forgotten.

        Parameters
        ----------
        rows : Tensor
            The recoveries, int64 ``[rows]``.
        """

    def state(self) -> dict[str, Tensor]:
        """Copy everything needed to go on with the same bits, other than options."""
        return self._rows.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` of an optimiser with the same options and backend returned, with its R.

        Raises
        ------
        ValueError
            When names, dtypes or shapes (but for R) are not those of this optimiser.
        """
        self._rows.load(state)
