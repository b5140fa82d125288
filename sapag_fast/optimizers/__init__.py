"""Optimisers over many independent recoveries at once: variables ``[R, N]``, one memory per recovery.

Nothing here reads a value back from a device, so a step on a GPU costs a fixed, small number of launches
whatever R is, and a recovery whose numbers turn bad changes no other one. Recoveries may leave the batch
(`keep`), begin anew in their place (`restart`), and be saved and gone on with (`state`, `load`).
"""

from typing import Protocol

from torch import Tensor

from sapag_fast.optimizers.adam import Adam
from sapag_fast.optimizers.lbfgs import LBFGS

__all__ = ["LBFGS", "Adam", "Optimizer"]


class Optimizer(Protocol):
    """Turns gradients into steps; keeps whatever it needs to remember."""

    def step(self, gradient: Tensor, objective: Tensor | None = None) -> Tensor:
        """The change to add to the variables, ``[R, N]``, given the gradient ``[R, N]`` (and, for line
        searches, the objective ``[R]``) at the present ones.

        The caller must apply the whole change before the next call.
        """

    def keep(self, rows: Tensor) -> None:
        """Only these recoveries stay, in this order; int64 ``[rows]``."""

    def restart(self, rows: Tensor) -> None:
        """These recoveries begin anew, whatever their numbers had turned into; int64 ``[rows]``."""

    def state(self) -> dict[str, Tensor]:
        """Copies of everything needed to go on with the same bits; options are not among it."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` of an optimiser with the same options and backend returned, with its R."""
