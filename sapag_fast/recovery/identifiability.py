"""Whether a gradient determines the input that a search has found.

Where it does not, a small distance says nothing: whatever the gradient is blind to came from the start and
the penalties. So each input that is close enough to be certified is perturbed and searched on, without
penalties, until the distance is again at what certifies: a direction that the gradient determines is back by
then, and one that it is blind to stays. A small
part of a picture that stays counts little in the mean, so each window of a picture is looked at too. Measured
in ``benchmarks/recovery/identifiability.py`` and ``benchmarks/recovery/never_wrong``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from sapag_fast.search.prepare import Attack

__all__ = ["DETERMINED", "LOCAL", "LONGEST", "NOISE", "Identifiability", "check_identifiability"]

NOISE = 0.3
"""Standard deviation of the perturbation, of inputs in [0, 1]."""
LONGEST = 360
"""Evaluations of a check, at most. Untrained LeNets come back in about 100, trained ones in 140 to 340."""
DETERMINED = 0.02
"""The largest mean square that a determined input keeps of the perturbation's 0.09."""
LOCAL = 0.7
"""The largest share of its perturbation that a window of a determined picture keeps: 0.6 was the most of
LeNets below `DETERMINED`, trained and not, but for one; 0.72 to 1 where two rows, or 5 by 5 pixels, leave no
trace."""
_WINDOW = 5
_SEED = 20220710


@dataclass(frozen=True)
class Identifiability:
    """What is left of a perturbation after the search has gone on.

    Attributes
    ----------
    left : float
        Its mean square; the perturbation's was ``NOISE ** 2``.
    numbers : int
        Of an input, or of all inputs behind one gradient.
    evaluations : int
        That the check took.
    came_back : bool
        Whether the distance came to what certifies again; if not, what is left may have been on its way.
    local : float
        The largest share that a window of 5 by 5 pixels keeps of its part of the perturbation; 0 for inputs
        that are no pictures of that size.
    place : tuple of int or None
        Row and column of that window's middle; None without one.
    """

    left: float
    numbers: int
    evaluations: int
    came_back: bool = True
    local: float = 0.0
    place: tuple[int, int] | None = None

    @property
    def blind(self) -> int:
        """In about how many directions the gradient is blind: the share of the perturbation that stayed."""
        share = 1.0 if math.isnan(self.left) else min(1.0, self.left / NOISE**2)
        return round(self.numbers * share)

    @property
    def fault(self) -> str:
        """Why the input is not determined; empty where it is."""
        if not self.left <= DETERMINED and not self.came_back:
            return (
                "it could not be told whether the gradient determines the input: perturbed, it was still on "
                f"its way after {self.evaluations} evaluations"
            )
        if not self.left <= DETERMINED:
            return (
                "the gradient does not determine the input: perturbed, it did not come back (blind in about "
                f"{self.blind} of {self.numbers} directions)"
            )
        if self.local <= LOCAL or self.place is None:
            return ""
        row, column = self.place
        return (
            "the gradient does not determine a part of the input: perturbed, it did not come back around row "
            f"{row}, column {column}"
        )


def check_identifiability(
    attack: Attack, victims: Sequence[int], inputs: Tensor, labels: Tensor, *, certifies: float, at_once: int
) -> list[Identifiability]:
    """Perturb what was found of some victims, and search on.

    What it says of a victim follows from that victim, whatever the others are (see `Attack.isolated`).

    Parameters
    ----------
    attack : Attack
    victims : sequence of int
        W of its victims.
    inputs : Tensor
        ``[W, B, *input_shape]``, found.
    labels : Tensor
        ``[W, B, ...]``.
    certifies : float
        The largest distance that certifies.
    at_once : int
        The most searches at once.

    Raises
    ------
    KeyboardInterrupt
        When Ctrl-C ends the check.
    """
    rows = torch.as_tensor(victims, dtype=torch.long)
    recipe = attack.setup.recipe
    recipe = replace(recipe, steps=LONGEST, patience=0, tv=0.0, box=0.0, stop_distance=certifies)
    options = replace(attack.setup.options, at_once=at_once)
    chance = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(inputs.shape[1:], generator=chance, dtype=torch.float64).to(inputs)
    targets = [None if t is None else t[rows.to(t.device)] for t in attack.problem.targets]
    again = replace(
        attack,
        setup=replace(attack.setup, recipe=recipe, options=options),
        problem=replace(attack.problem, targets=targets, restarts=1),
        starts=inputs + NOISE * noise,
        labels=labels,
    )
    result = again.run()
    if result.interrupted:
        raise KeyboardInterrupt
    squares = (result.inputs - inputs).square()
    left = squares.flatten(1).mean(1).tolist()
    numbers = inputs[0].numel()
    windows = _windows(squares, (NOISE * noise).square())
    return [
        Identifiability(one, numbers, count, distance <= certifies, *window)
        for one, count, distance, window in zip(
            left, result.evaluations.tolist(), result.distance.tolist(), windows, strict=True
        )
    ]


def _windows(kept: Tensor, given: Tensor) -> list[tuple[float, tuple[int, int] | None]]:
    """The window that keeps the largest share, and its middle, of squares ``[W, B, *input_shape]``."""
    if kept.dim() != 5 or min(kept.shape[-2:]) < _WINDOW:
        return [(0.0, None)] * len(kept)
    sums = (F.avg_pool2d(squares.sum(-3), _WINDOW, 1) for squares in (kept.double(), given.double()))
    shares = torch.div(*sums)  # [W, B, windows down, windows across]
    most, at = shares.flatten(1).max(1)
    across = shares.shape[-1]
    inside = [index % shares[0, 0].numel() for index in at.tolist()]
    places = [(index // across + _WINDOW // 2, index % across + _WINDOW // 2) for index in inside]
    return list(zip(most.tolist(), places, strict=True))
