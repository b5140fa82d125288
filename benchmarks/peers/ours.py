"""`sapag_fast.recover`, as many victims at once as told."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

import sapag_fast as sf
from benchmarks.claims.trace import Traced
from benchmarks.peers.contender import Found
from benchmarks.peers.victims import Victims
from benchmarks.peers.watch import Watch

__all__ = ["Ours"]

_FEWEST_TRACED = 7  # searches that `Traced` can follow


class Ours:
    """As it comes, one search for each victim: labels from the gradient, recipe from the model.

    Of its budgets, 300 is the recipe's own. With ``same_start`` it begins where DLG does. Watched, all
    searches go at once, however many are told: they are independent, and the numbers of one differ in
    rounding alone.
    """

    channels = (1, 3)

    def __init__(self, at_once: int, *, same_start: bool = False) -> None:
        self.at_once, self.same_start = at_once, same_start
        self.name = f"sapag_fast, R={at_once}{', noise start' if same_start else ''}"
        self.budgets = (300, 1000) if same_start else (50, 100, 300)

    def run(
        self, victims: Victims, chosen: Sequence[int], budget: int, watches: Sequence[Watch] = ()
    ) -> list[Found]:
        rows = list(chosen)
        if not watches:
            found = self._recover(victims.model, victims, rows, budget, self.at_once)
        else:
            # The last search over and over, where there are too few to follow.
            rows += rows[-1:] * (_FEWEST_TRACED - len(rows))
            model = Traced(victims.model, victims.images[rows][:, None])
            found = self._recover(model, victims, rows, budget, len(rows))
            # Other lines of the trace are a search's that has a watch, once more.
            for watch, errors, spent in zip(
                watches, model.trace(found).T.tolist(), found.evaluations.tolist(), strict=False
            ):
                for mse in errors[:spent]:
                    watch.note(mse)
        images = found.inputs[: len(chosen), 0]
        return [Found(image, int(spent)) for image, spent in zip(images, found.evaluations, strict=False)]

    def _recover(
        self, model: nn.Module, victims: Victims, rows: list[int], budget: int, at_once: int
    ) -> sf.Recovery:
        given = {"start": victims.starts[rows][:, None]} if self.same_start else {}
        return sf.recover(
            model,
            [entry[rows] for entry in victims.target],
            victims.shape,
            batched=True,
            steps=budget,
            at_once=at_once,
            **given,
        )
