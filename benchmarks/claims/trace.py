"""The error of every iterate against the truth, which an attack itself cannot know."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sapag_fast.recover import Recovery

__all__ = ["Trace"]


class Trace:
    """Listens to a network while `recover` runs one restart of each of V victims on it.

    Parameters
    ----------
    model : nn.Module
        The network under attack.
    truth : Tensor
        ``[V, 1, *input_shape]``: which image of a batch is which would change on the way. V is at least 7, by
        which the search is told from the trials of a few rows before it.
    """

    def __init__(self, model: nn.Module, truth: Tensor) -> None:
        if truth.shape[0] < 7 or truth.shape[1] != 1:
            raise ValueError(f"truth: expected [7 or more, 1, ...], found {list(truth.shape)}")
        self.truth = truth[:, 0]
        self.errors: list[Tensor] = []
        self.hook = model.register_forward_pre_hook(self._heard)

    def _heard(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        if x.shape == self.truth.shape:
            self.errors.append((x.clamp(0, 1) - self.truth).square().flatten(1).mean(1))

    def finish(self, found: Recovery) -> Tensor:
        """Mean squared errors ``[evaluations, V]``.

        Raises
        ------
        RuntimeError
            When what was heard is not the search: the iterates handed out must be among those heard.
        """
        self.hook.remove()
        heard = torch.stack(self.errors[: found.history.shape[0]]) if self.errors else self.truth.new_empty(0, 0)
        final = (found.inputs[:, 0].clamp(0, 1) - self.truth).square().flatten(1).mean(1)
        if len(heard) == 0 or ((heard - final).abs() > 1e-6).all(0).any():
            raise RuntimeError("the trace does not hold the iterates that the attack found")
        return heard
