"""Which victims of an audit are searched together, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sapag_fast.files.fault import fault_of
from sapag_fast.files.victims import ListedVictim
from sapag_fast.runtime.randomness import forked
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.recipe import Recipe
from sapag_fast.search.setup import Setup, set_up
from sapag_fast.victim.cautions import Caution, averaged_caution, united
from sapag_fast.victim.loss import Loss
from sapag_fast.victim.losses import CrossEntropy
from sapag_fast.victim.normalised import PerChannel, as_tuple
from sapag_fast.victim.probe import RejectedInputsError

__all__ = ["AuditOptions", "Group", "grouped"]


_SETTINGS = (
    "restarts",
    "stop_certified",
    "recipe",
    "distance",
    "layers",
    "optimizer",
    "steps",
    "basis",
    "tv",
    "box",
    "stop_distance",
    "at_once",
    "seed",
)
"""The search options that an audit can be given and that decide bits, as its manifest names them."""

_RARE = ("bounds", "mean", "std", "scale", "patience", "exact")
"""Those that its manifest names only where they are not the default."""


@dataclass(frozen=True)
class AuditOptions:
    """How every victim is searched.

    Attributes
    ----------
    search : SearchOptions
        Its ``max_memory`` alone may change between two sessions.
    labels : str
        ``infer``, ``joint``, or ``known``: from the gradient files.
    loss : Loss
        Whose gradients they are.

    Raises
    ------
    ValueError
        For other labels.
    """

    search: SearchOptions
    labels: str = "infer"
    loss: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        if self.labels not in ("infer", "joint", "known"):
            raise ValueError(f"labels: expected infer, joint or known, found {self.labels!r}")

    def settings(self) -> dict[str, Any]:
        """Give what decides bits, by name."""
        usual = SearchOptions()
        rare = [name for name in _RARE if getattr(self.search, name) != getattr(usual, name)]
        loss = {} if self.loss.plain else {"loss": self.loss.words}
        search = {name: getattr(self.search, name) for name in (*_SETTINGS, *rare)}
        training = self.search.training
        local = {} if training is None else {"local_training": asdict(training)}
        return {"labels": self.labels} | loss | search | local


class _Likeness(NamedTuple):
    """What the victims of a group have in common."""

    input_shape: tuple[int, ...]
    batch_size: int
    mean: PerChannel | None
    std: PerChannel | None

    @property
    def name(self) -> str:
        words = f"{'x'.join(map(str, self.input_shape))}, {self.batch_size} image(s)"
        if self.mean is None:
            return words
        mean, std = (",".join(map(str, as_tuple(each) or ())) for each in (self.mean, self.std))
        return f"{words}, mean {mean}, std {std}"


@dataclass(frozen=True)
class Group:
    """Victims of one input shape, batch size and normalisation.

    Attributes
    ----------
    victims : tuple of ListedVictim
    recipe : Recipe
        Settled for their shape.
    classes : int or None
        The model's number of outputs.
    name : str
    mean, std : float, sequence of float or None
        The normalisation: the options', or what the files say.
    output : Tensor or None
        ``[B, ...]``, the model's output on zeros.
    cautions : tuple of Caution
        What in the model's mode, or in what files say of clients, makes recoveries worse than they look.
    """

    victims: tuple[ListedVictim, ...]
    recipe: Recipe
    classes: int | None
    name: str
    mean: PerChannel | None = None
    std: PerChannel | None = None
    output: Tensor | None = None
    cautions: tuple[Caution, ...] = ()

    @property
    def outputs(self) -> int:
        """Numbers that the model gives for an image; 0 where that is not known."""
        return self.output[0].numel() if isinstance(self.output, Tensor) and self.output.dim() else 0


def grouped(
    model: nn.Module, victims: Sequence[ListedVictim], options: AuditOptions, device: torch.device
) -> tuple[list[Group], dict[str, str]]:
    """Form the groups, and tell by name what is wrong with the victims that are in none.

    Raises
    ------
    ValueError
        For options that do not fit.
    """
    faults = {victim.name: victim.fault for victim in victims if victim.fault is not None}
    alike: dict[_Likeness, list[ListedVictim]] = {}
    for victim in victims:
        if victim.fault is None:
            own = (
                (victim.mean, victim.std)
                if options.search.mean is None
                else (options.search.mean, options.search.std)
            )
            alike.setdefault(_Likeness(victim.input_shape, victim.batch_size, *own), []).append(victim)
    groups, refusals = [], []
    for likeness, members in alike.items():
        shape, batch_size, mean, std = likeness
        try:
            own_search = replace(options.search, mean=mean, std=std)
            with forked(device):
                setup = set_up(model, shape, loss_fn=options.loss, batch_size=batch_size, options=own_search)
            setup = replace(setup, joint=options.labels == "joint")
            _ = setup.bases  # a basis that does not fit is refused now
        except RejectedInputsError as error:
            reason = f"input shape {list(shape)}: the model rejects it: {error.__cause__}"
        except Exception as error:  # the shape is what files say
            refusals.append(error)
            reason = f"input shape {list(shape)}, batch size {batch_size}: {fault_of(error)}"
        else:
            groups.append(_group(setup, members, likeness))
            continue
        faults |= dict.fromkeys((victim.name for victim in members), reason)
    if refusals and not groups:
        raise refusals[0]  # no shape fits the options: it is for them
    return groups, faults


def _group(setup: Setup, members: Sequence[ListedVictim], likeness: _Likeness) -> Group:
    told = [averaged_caution(victim.averaged_batches) for victim in members]
    if setup.options.averaged_batches is not None:
        told = []
    cautions = united([*setup.cautions, *(caution for cautions in told for caution in cautions)])
    return Group(
        tuple(members),
        setup.recipe,
        setup.probe.classes,
        likeness.name,
        likeness.mean,
        likeness.std,
        setup.probe.output,
        cautions,
    )
