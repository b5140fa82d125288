"""Whether a gradient determines the input that a search has found.

Where it does not, a small distance says nothing: whatever the gradient is blind to came from the start and
the penalties. So each input that is close enough to be certified is perturbed and searched on, without
penalties, until the distance is again at what certifies: a direction that the gradient determines is back by
then, and one that it is blind to stays. A few directions count little in the mean, so the parts of a picture
in which pictures differ are looked at, too (`parts`). Measured in ``benchmarks/recovery/identifiability.py``
and ``benchmarks/recovery/never_wrong``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sapag_fast.recovery.means import mean_passes
from sapag_fast.recovery.parts import Part, blind_directions, is_picture, most_kept, with_low_waves
from sapag_fast.search.prepare import Attack

__all__ = ["DETERMINED", "LONGEST", "NOISE", "Identifiability", "check_identifiability"]

NOISE = 0.3
"""Standard deviation of the perturbation, of inputs in [0, 1]; a picture's low waves have more."""
LONGEST = 360
"""Evaluations of a check, at most. Untrained LeNets come back in about 100, trained ones in 140 to 340."""
DETERMINED = 0.02
"""The largest mean square that a determined input keeps of the perturbation's 0.09, with low waves 0.16."""
_SEED = 20220710


@dataclass(frozen=True)
class Identifiability:
    """What is left of a perturbation after the search has gone on.

    Attributes
    ----------
    left : float
        Its mean square.
    numbers : int
        Of an input, or of all inputs behind one gradient.
    evaluations : int
        That the check took.
    came_back : bool
        Whether the distance came to what certifies again; if not, what is left may have been on its way.
    blind : int
        In about how many directions the gradient is blind, if all that stayed is.
    part : Part or None
        The part of a picture that keeps most, by what such parts may keep; None for other inputs.
    alike : bool
        Whether the mean of several inputs of one label would pass for the one input (`means`).
    """

    left: float
    numbers: int
    evaluations: int
    came_back: bool = True
    blind: int = 0
    part: Part | None = None
    alike: bool = False

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
        if self.part is not None and self.part.stays:
            return (
                "the gradient does not determine a part of the input: perturbed, it did not come back "
                + self.part.where
            )
        if self.alike:
            return (
                "the mean of several inputs of one label would be as close: neither the distance nor the "
                "last layer's gradient would tell it from one input"
            )
        return ""


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
    shape = inputs.shape[1:]
    noise = NOISE * torch.randn(shape, generator=chance, dtype=torch.float64)
    noise = (with_low_waves(noise) if is_picture(shape) else noise).to(inputs)
    targets = [None if t is None else t[rows.to(t.device)] for t in attack.problem.targets]
    again = replace(
        attack,
        setup=replace(attack.setup, recipe=recipe, options=options),
        problem=replace(attack.problem, targets=targets, restarts=1),
        starts=inputs + noise,
        labels=labels,
    )
    result = again.run()
    if result.interrupted:
        raise KeyboardInterrupt
    stayed = result.inputs - inputs
    left = stayed.square().flatten(1).mean(1).tolist()
    numbers = inputs[0].numel()
    if is_picture(shape):
        blind = blind_directions(stayed, NOISE)
        parts: list[Part | None] = list(most_kept(stayed, noise))
    else:
        blind = [round(min(numbers, numbers * one / NOISE**2)) for one in left]
        parts = [None] * len(left)
    evaluations, distances = result.evaluations.tolist(), result.distance.tolist()
    one = is_picture(shape) and shape[0] == 1 and attack.problem.training is None
    alike = [
        one and not attack.problem.joint and mean_passes(attack.problem, inputs[w], labels[w], certifies)
        for w in range(len(left))
    ]
    return [
        Identifiability(
            left[w], numbers, evaluations[w], distances[w] <= certifies, blind[w], parts[w], alike[w]
        )
        for w in range(len(left))
    ]
