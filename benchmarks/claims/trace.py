"""The error of every iterate against the truth, which an attack itself cannot know."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sapag_fast.recovery.recover import Recovery

__all__ = ["Traced"]


class Traced(nn.Module):
    """A network that notes what `recover` shows it while one restart of each of V victims runs.

    Parameters
    ----------
    network : nn.Module
    truth : Tensor
        ``[V, 1, *input_shape]``: which image of a batch is which would change on the way. V is at least 7, by
        which the search is told from the trials of a few rows before it. All go at once; what measures how
        many fit into memory would be noted too.
    """

    def __init__(self, network: nn.Module, truth: Tensor) -> None:
        super().__init__()
        if truth.shape[0] < 7 or truth.shape[1] != 1:
            raise ValueError(f"truth: expected [7 or more, 1, ...], found {list(truth.shape)}")
        self.network = network
        self.errors: list[Tensor] = []
        true, errors = truth[:, 0], self.errors

        def error(x: Tensor) -> Tensor:
            return (x.clamp(0, 1) - true).square().flatten(1).mean(1)

        def note(x: Tensor) -> None:
            # Rows that fill up an evaluation come last. The same noise for all tells their distances' scale.
            mine = x.detach()[: len(true)]
            if mine.shape == true.shape and not torch.equal(mine, mine[:1].expand_as(mine)):
                errors.append(error(mine))

        # Functions, because the attack may work on a deep copy of the network, which must note here too.
        self.error, self.note = error, note

    def forward(self, x: Tensor) -> Tensor:
        self.note(x)
        return self.network(x)

    def trace(self, found: Recovery) -> Tensor:
        """Mean squared errors ``[evaluations, V]``, up to where the first search ends.

        Raises
        ------
        RuntimeError
            When the iterates that were handed out are not among those noted.
        """
        noted = torch.stack(self.errors[: int(found.evaluations.min())])
        missing = ((noted - self.error(found.inputs[:, 0])).abs() > 1e-6).all(0)
        if missing.any():
            raise RuntimeError(
                f"{int(missing.sum())} of {len(missing)} results are no iterates that were seen"
            )
        return noted
