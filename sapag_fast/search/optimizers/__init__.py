"""Optimisers over many independent recoveries at once: variables ``[R, N]``, one memory per recovery.

Nothing here reads a value back from a device, so a step on a GPU costs a fixed, small number of launches
whatever R is, and a recovery whose numbers turn bad changes no other one. Recoveries may leave the batch
(`keep`), begin anew in their place (`restart`), and be saved and gone on with (`state`, `load`).
"""

from sapag_fast.search.optimizers.adam import Adam, Schedule
from sapag_fast.search.optimizers.lbfgs import LBFGS
from sapag_fast.search.optimizers.optimizer import Optimizer

__all__ = ["LBFGS", "Adam", "Optimizer", "Schedule"]
