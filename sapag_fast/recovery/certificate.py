"""How sure a small distance makes us that a recovery succeeded.

Nothing but the truth tells success for certain. On some tasks, though, the searches that came below a
certain distance had found their victims' inputs, and those that had not stayed above. ``certificates.json``
keeps what ``python -m benchmarks.certificate`` has measured: for each family of tasks the threshold, and the
share of successes among the searches that came below it, on victims of known truth. An attack belongs to a
family by what an attacker knows. Where none fits, or where no threshold separates, the answer is ``unknown``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sapag_fast.search.recipe import Recipe
from sapag_fast.victim.problem import Problem, rebuilt

__all__ = ["Certificate", "Certifier", "Family", "certifier_for", "families"]

FILE = Path(__file__).with_name("certificates.json")
NEVER = -1.0
"""A threshold that no distance meets."""


@dataclass(frozen=True)
class Family:
    """Tasks among which one threshold was measured.

    Attributes
    ----------
    name : str
    kinked : bool
        Whether the network has activations with a kink (ReLU and its kin); then the search goes through the
        surrogate.
    distance : str
    bandwidth : float
    channels : int
    sides : pair of int
        Least and largest height and width.
    batch_sizes : pair of int
        Fewest and most inputs behind one gradient.
    layers : pair of int
        Fewest and most layers of the distance.
    threshold : float or None
        The largest distance that certifies; None where none separates well enough.
    searches, below, hits : int
        How many were measured, how many of them came to the threshold or below, how many of these succeeded.
    precision : float or None
        ``hits / below``.
    interval : pair of float or None
        Wilson's 95 % interval of the precision.
    measured_on : str
        Networks, weights, data.
    """

    name: str
    kinked: bool
    distance: str
    bandwidth: float
    channels: int
    sides: tuple[int, int]
    batch_sizes: tuple[int, int]
    layers: tuple[int, int]
    threshold: float | None
    searches: int
    below: int
    hits: int
    precision: float | None
    interval: tuple[float, float] | None
    measured_on: str

    def holds(
        self,
        recipe: Recipe,
        bandwidth: float,
        shape: Sequence[int],
        batch_size: int,
        layers: int,
        kinked: bool,
    ) -> bool:
        """Whether a task is one of this family."""
        return (
            kinked == self.kinked == (recipe.surrogate is not None)
            and (recipe.distance, bandwidth) == (self.distance, self.bandwidth)
            and len(shape) == 3
            and shape[0] == self.channels
            and all(self.sides[0] <= side <= self.sides[1] for side in shape[1:])
            and self.batch_sizes[0] <= batch_size <= self.batch_sizes[1]
            and self.layers[0] <= layers <= self.layers[1]
        )


@dataclass(frozen=True)
class Certificate:
    """What a recovery's distance says of its success.

    Attributes
    ----------
    status : str
        ``certified`` (the distance is at most the threshold of the task's family) or ``unknown``.
    reason : str
        Why unknown; empty for ``certified``.
    family : str or None
        The task's family; the next ones are `Family`'s, None without one.
    threshold, precision, interval, below, measured_on
        The measured share of successes at such distances, its 95 % interval, of how many searches, and what
        it was measured on. Success: a mean squared error below 0.01 of every image, on pixels in [0, 1].
    """

    status: str
    reason: str = ""
    family: str | None = None
    threshold: float | None = None
    precision: float | None = None
    interval: tuple[float, float] | None = None
    below: int | None = None
    measured_on: str | None = None

    @property
    def certified(self) -> bool:
        """Whether the status is ``certified``."""
        return self.status == "certified"


class Certifier:
    """Certificates of one attack's victims.

    Parameters
    ----------
    family : Family or None
    reasons : sequence of str
        For each of V victims why nothing can be said of it, empty where something can.
    """

    def __init__(self, family: Family | None, reasons: Sequence[str]) -> None:
        self.family, self.reasons = family, list(reasons)

    @property
    def thresholds(self) -> list[float]:
        """For each victim the distance that certifies, or `NEVER`."""
        known = self.family is not None and self.family.threshold is not None
        return [self.family.threshold if known and not why else NEVER for why in self.reasons]

    def certificate(self, victim: int, distance: float) -> Certificate:
        """For a victim whose recovery has come to this distance."""
        family, reason = self.family, self.reasons[victim]
        if family is None:
            return Certificate("unknown", reason)
        if not reason and family.threshold is None:
            reason = "no distance was found to tell success from failure in this family"
        if not reason and not distance <= family.threshold:
            reason = "the distance is above the threshold"
        told = (family.name, family.threshold, family.precision, family.interval, family.below)
        return Certificate("unknown" if reason else "certified", reason, *told, family.measured_on)


@lru_cache(maxsize=1)
def families(path: Path = FILE) -> tuple[Family, ...]:
    """What has been measured."""
    return tuple(_family(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["families"])


def certifier_for(
    problem: Problem,
    recipe: Recipe,
    shape: Sequence[int],
    batch_size: int,
    *,
    kinked: bool,
    unusual: Sequence[str] = (),
    known: Sequence[Family] | None = None,
) -> Certifier:
    """The certifier of an attack.

    Parameters
    ----------
    problem : Problem
        With the distance in force.
    recipe : Recipe
        The settings in force.
    shape : sequence of int
        Of one input.
    kinked : bool
        Whether activations with a kink run in the network.
    unusual : sequence of str
        What else sets the attack apart from those that were measured; then all is unknown.
    known : sequence of Family, optional
        None: `families`.
    """
    distance, reason = problem.distance, unusual[0] if unusual else ""
    if any(target is None for target in problem.targets) or problem.constants:
        reason = "parts of the gradient are not there"
    layers = len(set(distance.layers or ()))
    told = (recipe, distance.bandwidth, shape, batch_size, layers, kinked)
    fitting = [family for family in (families() if known is None else known) if family.holds(*told)]
    if reason or not fitting:
        reason = reason or "no family of tasks like this one"
        return Certifier(None, [f"not measured: {reason}"] * problem.victims)
    # A layer without weight constrains nothing.
    idle = rebuilt(distance, batched=True).degenerate(problem.targets).any(-1).tolist()
    return Certifier(fitting[0], ["layers of the gradient carry no weight" if some else "" for some in idle])


def _family(entry: Mapping[str, Any]) -> Family:
    """From JSON, where tuples are lists."""
    return Family(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})
