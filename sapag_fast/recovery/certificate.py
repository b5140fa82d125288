"""How sure a small distance makes us that a recovery succeeded.

Nothing but the truth tells success for certain. On some tasks, though, the searches that came below a
certain distance had found their victims' inputs, and those that had not stayed above. ``certificates.json``
keeps what ``python -m benchmarks.recovery.certificate`` has measured: for each family of tasks the threshold
and the share of successes among the searches that came below it, on victims of known truth. An attack
belongs to a family by what an attacker knows, the network's operators among it. Where none fits, or where no
threshold separates, the answer is ``unknown``. It is, too, where the gradient does not determine the input:
then a small distance says nothing (`identifiability`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import Kind
from sapag_fast.recovery.identifiability import Identifiability
from sapag_fast.search.prepare import Attack
from sapag_fast.victim.one_product import ONE, departure
from sapag_fast.victim.problem import Problem, rebuilt
from sapag_fast.victim.searchable import LOW_PRECISION

__all__ = ["Certificate", "Certifier", "Family", "Task", "certifier_for", "certifier_of", "families"]

FILE = Path(__file__).with_name("certificates.json")
NEVER = -1.0
"""A threshold that no distance meets."""
UNCHECKED = "the search was ended before it was checked that the gradient determines the input"
SEVERAL = (
    "the last layer's gradient is no product of two vectors to the last digit, as one input's is: it may be "
    "of several inputs of one label, whose mean is found, or rounded further"
)
UNTOLD = (
    "the last layer's gradient has too few rows to tell one input from the mean of several of one label (of "
    "two classes it never does)"
)
SHAPING = frozenset(
    (
        "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "t", "transpose",
        "permute", "unsqueeze", "squeeze", "expand", "alias", "clone", "contiguous",
    )
)  # fmt: skip
"""Operators that keep every number, and give them another shape."""


@dataclass(frozen=True)
class Task:
    """What an attacker knows of a search.

    Attributes
    ----------
    piecewise_linear : bool
        Whether the network has piecewise-linear activations (ReLU and its kin).
    surrogate : bool
        Whether the search goes through one.
    distance : str
    bandwidth : float
    input_shape : tuple of int
    batch_size : int
    layers : int
        Of the distance.
    operators : frozenset of str
        Those that the network runs.
    """

    piecewise_linear: bool
    surrogate: bool
    distance: str
    bandwidth: float
    input_shape: tuple[int, ...]
    batch_size: int
    layers: int
    operators: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Family:
    """Tasks among which one threshold was measured.

    Attributes
    ----------
    name : str
    piecewise_linear : bool
        Whether the network has piecewise-linear activations (ReLU and its kin); then the search goes through
        the surrogate.
    distance : str
    bandwidth : float
    channels : int
    sides : pair of int
        Least and largest height and width.
    batch_sizes : pair of int
        Fewest and most inputs behind one gradient.
    layers : pair of int
        Fewest and most layers of the distance.
    operators : tuple of str
        Those of the networks that were measured, without those that only give a tensor another shape.
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
    piecewise_linear: bool
    distance: str
    bandwidth: float
    channels: int
    sides: tuple[int, int]
    batch_sizes: tuple[int, int]
    layers: tuple[int, int]
    operators: tuple[str, ...]
    threshold: float | None
    searches: int
    below: int
    hits: int
    precision: float | None
    interval: tuple[float, float] | None
    measured_on: str

    def strange(self, task: Task) -> list[str]:
        """Operators of the task's network that no measured network has."""
        return sorted(task.operators - SHAPING - set(self.operators))

    def holds(self, task: Task) -> bool:
        """Whether a task is one of this family, whatever its operators."""
        shape = task.input_shape
        return (
            task.piecewise_linear == self.piecewise_linear == task.surrogate
            and (task.distance, task.bandwidth) == (self.distance, self.bandwidth)
            and len(shape) == 3
            and shape[0] == self.channels
            and all(self.sides[0] <= side <= self.sides[1] for side in shape[1:])
            and self.batch_sizes[0] <= task.batch_size <= self.batch_sizes[1]
            and self.layers[0] <= task.layers <= self.layers[1]
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
    check : Identifiability or None
        Whether the gradient determines the input; None where the distance already says too little.
    """

    status: str
    reason: str = ""
    family: str | None = None
    threshold: float | None = None
    precision: float | None = None
    interval: tuple[float, float] | None = None
    below: int | None = None
    measured_on: str | None = None
    check: Identifiability | None = None

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
        threshold = None if self.family is None else self.family.threshold
        return [NEVER if why or threshold is None else threshold for why in self.reasons]

    def is_close(self, victim: int, distance: float) -> bool:
        """Whether the distance certifies the victim's recovery, if its gradient determines it."""
        return distance <= self.thresholds[victim]

    def certificate(self, victim: int, distance: float, check: Identifiability | None = None) -> Certificate:
        """For a victim whose recovery has come to this distance, and what the check of it said."""
        family, reason = self.family, self.reasons[victim]
        if family is None:
            return Certificate("unknown", reason)
        threshold = family.threshold
        if not reason and threshold is None:
            reason = "no distance was found to tell success from failure in this family"
        elif not reason and threshold is not None and not distance <= threshold:
            reason = "the distance is above the threshold"
        elif not reason:
            reason = UNCHECKED if check is None else check.fault
        measured = (family.name, family.threshold, family.precision, family.interval, family.below)
        status = "unknown" if reason else "certified"
        return Certificate(status, reason, *measured, family.measured_on, check)


@lru_cache(maxsize=1)
def families(path: Path = FILE) -> tuple[Family, ...]:
    """What has been measured."""
    return tuple(_family(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["families"])


def certifier_of(attack: Attack) -> Certifier:
    """Find the family of an attack's task, and what speaks against certificates."""
    problem, setup = attack.problem, attack.setup
    task = Task(
        piecewise_linear=setup.probe.piecewise_linear,
        surrogate=setup.recipe.surrogate is not None,
        distance=setup.recipe.distance,
        bandwidth=problem.distance.bandwidth,
        input_shape=setup.input_shape,
        batch_size=setup.batch_size,
        layers=len(set(problem.distance.layers or ())),
        operators=setup.probe.operators,
    )
    certifier = certifier_for(problem, task, unusual=_unusual(attack))
    several = _several(attack)
    told = zip(certifier.reasons, attack.label_source, attack.label_reason, several, strict=True)
    return Certifier(
        certifier.family,
        [no or (f"labels unknown: {why}" if how == "unknown" else more) for no, how, why, more in told],
    )


def _several(attack: Attack) -> list[str]:
    """For each victim that is said to be one input why its gradient may be of several; empty where not."""
    problem = attack.problem
    matrices = [target for target in problem.targets if target is not None and target.dim() == 3]
    if attack.setup.batch_size > 1 or problem.training is not None or not matrices:
        return [""] * problem.victims
    departures = [departure(gradient) for gradient in matrices[-1]]
    return [UNTOLD if math.isnan(one) else SEVERAL if one > ONE else "" for one in departures]


def certifier_for(
    problem: Problem, task: Task, *, unusual: str = "", known: Sequence[Family] | None = None
) -> Certifier:
    """Make the certifier of one task's victims.

    Parameters
    ----------
    problem : Problem
        With the distance in force and the targets.
    task : Task
    unusual : str
        What else sets the attack apart from those that were measured; then all is unknown.
    known : sequence of Family, optional
        None: `families`.
    """
    reason = unusual
    if any(target is None for target in problem.targets) or problem.network.constants:
        reason = "parts of the gradient are not there"
    fitting = [family for family in (families() if known is None else known) if family.holds(task)]
    strange = fitting[0].strange(task) if fitting else []
    if reason or not fitting or strange:
        words = f"a network with the operators {', '.join(strange)}" if strange else ""
        reason = reason or words or "no family of tasks like this one"
        return Certifier(None, [f"not measured: {reason}"] * problem.victims)
    # A layer without weight constrains nothing.
    idle = rebuilt(problem.distance, batched=True).degenerate(problem.targets).any(-1).tolist()
    return Certifier(fitting[0], ["layers of the gradient carry no weight" if some else "" for some in idle])


def _unusual(attack: Attack) -> str:
    """What sets the attack apart from those that were measured; empty if nothing does."""
    problem, setup, options = attack.problem, attack.setup, attack.setup.options
    reasons = (
        ("a loss of one's own", not setup.loss.plain),
        ("local training", problem.training is not None),
        ("labels searched jointly", problem.joint),
        (
            "a distance or layers of one's own",
            options.layers != "modules" or isinstance(options.distance, (GradientDistance, Kind)),
        ),
        ("bounds other than 0 and 1", options.bounds != (0.0, 1.0)),
        ("a normalisation of the inputs", options.mean is not None),
        ("numbers in half precision", any(caution.kind == LOW_PRECISION for caution in setup.told)),
        (f"gradients of {setup.dtype}", setup.dtype not in (torch.float32, torch.float64)),
    )
    return next((why for why, so in reasons if so), "")


def _family(entry: Mapping[str, Any]) -> Family:
    """From JSON, where tuples are lists."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return Family(**values)
