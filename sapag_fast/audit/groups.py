"""Which victims of an audit are searched together, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.audit.victims import Listed
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.layering import model_layers
from sapag_fast.search.basis import make_basis
from sapag_fast.search.recipe import Recipe, settled_recipe
from sapag_fast.victim.probe import classes_of, trial
from sapag_fast.victim.problem import Problem

__all__ = ["AuditOptions", "Group", "as_problem", "grouped"]

_OVERRIDES = ("distance", "optimizer", "steps", "basis", "box", "tv")


@dataclass(frozen=True)
class AuditOptions:
    """How every victim is searched; None: from the recipe.

    ``max_memory`` is the only one that may change between two sessions.
    """

    labels: str
    restarts: int
    stop_certified: bool
    recipe: str
    distance: str | None
    layers: str
    optimizer: str | None
    steps: int | None
    basis: str | None
    tv: float | None
    box: float | None
    stop_distance: float | None
    at_once: int | None
    max_memory: int | None
    seed: int


@dataclass(frozen=True)
class Group:
    """Victims of one input shape and batch size: the recipe for them and the model's number of outputs."""

    victims: tuple[Listed, ...]
    recipe: Recipe
    classes: int | None
    name: str


def grouped(
    model: nn.Module, victims: Sequence[Listed], options: AuditOptions, device: torch.device
) -> tuple[list[Group], dict[str, str]]:
    """The groups, and by name what is wrong with the victims that are in none.

    Raises
    ------
    ValueError
        For options that do not fit.
    """
    GradientDistance(options.distance or "sapag", layers=model_layers(model, options.layers))
    faults = {victim.name: victim.fault for victim in victims if victim.fault is not None}
    alike: dict[tuple[tuple[int, ...], int], list[Listed]] = {}
    for victim in victims:
        if victim.fault is None:
            alike.setdefault((victim.input_shape, victim.batch_size), []).append(victim)
    groups = []
    for (shape, batch_size), members in alike.items():
        name = f"{'x'.join(map(str, shape))}, {batch_size} image(s)"
        try:
            classes, piecewise_linear = _looked_at(model, shape, batch_size, device)
        except Exception as error:
            reason = f"input shape {list(shape)}: the model rejects it: {error}"
            faults |= dict.fromkeys((victim.name for victim in members), reason)
            continue
        recipe = _recipe(options, shape, batch_size, piecewise_linear, device)
        groups.append(Group(tuple(members), recipe, classes, name))
    return groups, faults


def as_problem(model: nn.Module, target: Sequence[Tensor | None]) -> Problem:
    """The model and ``[V, *parameter shape]`` targets as the attack takes them."""
    return Problem(model, F.cross_entropy, GradientDistance(), target)


def _looked_at(
    model: nn.Module, shape: tuple[int, ...], batch_size: int, device: torch.device
) -> tuple[int | None, bool]:
    """The number of outputs, and whether activations with a kink ran."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    problem = as_problem(model, [None] * len(trained))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        output, recorder = trial(problem, shape, batch_size, trained[0].dtype, device)
    return classes_of(output), recorder.piecewise_linear


def _recipe(
    options: AuditOptions,
    shape: tuple[int, ...],
    batch_size: int,
    piecewise_linear: bool,
    device: torch.device,
) -> Recipe:
    recipe = settled_recipe(
        options.recipe,
        shape,
        batch_size,
        piecewise_linear=piecewise_linear,
        start=None,
        **{name: getattr(options, name) for name in _OVERRIDES},
    )
    for basis in recipe.bases:
        make_basis(basis, shape, bounds=(0.0, 1.0), device=device, dtype=torch.float32)
    if options.stop_distance is not None:
        recipe = replace(recipe, stop_distance=options.stop_distance)
    return recipe
