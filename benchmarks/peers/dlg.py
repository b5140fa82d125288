"""DLG and iDLG: squared distance, ``torch.optim.LBFGS`` with its defaults, 300 steps of up to 20 iterations.

DLG searches the label too, as published; iDLG reads it from the last layer's gradient and ends once the
distance is below 1e-6. Both start from standard normal pixels. Kinder than published: they end where the
optimiser stands still or an iterate is not finite, and report the iterate with the lowest distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from benchmarks.peers.contender import Found, label_of
from benchmarks.peers.victims import Victims
from benchmarks.peers.watch import Watch
from benchmarks.shared.dlg import deep_leakage

__all__ = ["DLG", "IDLG"]

_STEPS = 300


class DLG:
    """The published loop, ``backward()`` included, for one victim after the other."""

    name = "DLG"
    budgets = (100, 300, _STEPS * 20)
    at_once = 1
    channels = (1, 3)
    joint = True
    stop_distance = 0.0

    def run(
        self, victims: Victims, chosen: Sequence[int], budget: int, watches: Sequence[Watch] = ()
    ) -> list[Found]:
        return [self._one(victims, victim, budget, watch) for victim, watch in zip_longest(chosen, watches)]

    def _one(self, victims: Victims, victim: int, budget: int, watch: Watch | None) -> Found:
        target = victims.gradient(victim)

        def look(_: int, inputs: Tensor) -> None:
            watch.look(inputs.detach()[0])

        labels = victims.label_starts[victim] if self.joint else label_of(target)
        with torch.enable_grad():
            found = deep_leakage(
                victims.model,
                target,
                victims.shape,
                victims.label_starts.shape[-1],
                steps=_STEPS,
                evaluations=budget,
                start=victims.starts[victim],
                labels=labels,
                backward=True,
                stop_distance=self.stop_distance,
                look=look if watch is not None else None,
            )
        return Found(found.input[0], found.evaluations)


class IDLG(DLG):
    """The same with the label known."""

    name = "iDLG"
    joint = False
    stop_distance = 1e-6
