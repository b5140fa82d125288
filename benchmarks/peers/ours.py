"""`sapag_fast.recover`, as many victims at once as told."""

from __future__ import annotations

from collections.abc import Sequence

import sapag_fast as sf
from benchmarks.peers.contender import Found
from benchmarks.peers.victims import Victims

__all__ = ["Ours"]


class Ours:
    """As it comes, one search for each victim: labels from the gradient, recipe from the model.

    Of its budgets, 300 is the recipe's own. With ``same_start`` it begins where DLG does.
    """

    channels = (1, 3)

    def __init__(self, at_once: int, *, same_start: bool = False) -> None:
        self.at_once, self.same_start = at_once, same_start
        self.name = f"sapag_fast, R={at_once}{', noise start' if same_start else ''}"
        self.budgets = (300, 1000) if same_start else (50, 100, 300)

    def run(self, victims: Victims, chosen: Sequence[int], budget: int) -> list[Found]:
        rows = list(chosen)
        given = {"start": victims.starts[rows][:, None]} if self.same_start else {}
        found = sf.recover(
            victims.model,
            [entry[rows] for entry in victims.target],
            victims.shape,
            batched=True,
            steps=budget,
            at_once=self.at_once,
            **given,
        )
        images = found.inputs[:, 0]
        return [Found(image, int(spent)) for image, spent in zip(images, found.evaluations, strict=True)]
