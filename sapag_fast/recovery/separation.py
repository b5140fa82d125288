"""The public face of the second search that tells images of one label apart."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.kind import Kind, kinds
from sapag_fast.recovery.equal_labels import Features, has_equal_labels, separating_starts
from sapag_fast.recovery.recover import recover
from sapag_fast.recovery.result import EXACT, Recovery, joined
from sapag_fast.search.basis import make_basis
from sapag_fast.search.box import Bounds, box_of
from sapag_fast.search.interrupted import Interrupted
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.recipe import Recipe
from sapag_fast.victim.labels import find_last_layer
from sapag_fast.victim.normalised import PerChannel, normalised
from sapag_fast.victim.searchable import searchable
from sapag_fast.victim.targets import TargetGradient, checked_target

__all__ = ["second_recipe", "separate_equal_labels"]

_LONGER = 6  # times the first search's evaluations: what is left to find is ill-conditioned
_SCALE = 100.0  # the differences count in the second order: what is left of the distance is tiny
_BOX = 0.1  # times the first search's penalty
_TV = 1e-6  # at most; more of it wipes the differences out again


def separate_equal_labels(
    model: nn.Module,
    target: TargetGradient,
    found: Recovery,
    *,
    restarts: int = 1,
    steps: int | None = None,
    bounds: Bounds = (0.0, 1.0),
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    seed: int = 0,
    batched: bool = False,
    max_memory: int | None = None,
    distance: str | Kind | GradientDistance | None = None,
) -> Recovery:
    """Search batches with equal labels once more, from starts that tell the images of one label apart.

    With small weights the first search comes to the average of the images of one label. What the last layer's
    gradient tells of their differences makes starts for a second one: same recipe, hardly any priors.

    Parameters
    ----------
    model : nn.Module
        As for `recover`, its last layer linear and making the output. Starts come from its evaluation mode.
    target : iterable or mapping of Tensor, ndarray or None
        As for `recover`: the gradients that `found` was searched from, of cross-entropy.
    found : Recovery
        What `recover` found of them.
    restarts : int
        Starts of each victim: rotated where more than two images share labels, else with noise.
    steps : int, optional
        Evaluations of each start; None: six times the recipe's.
    bounds, mean, std, seed, batched, max_memory
        As for `recover`.
    distance : str, Kind, GradientDistance or None
        What `found` was searched with; None: its recipe's. What is not registered must be given again.

    Returns
    -------
    Recovery
        `found`, with the new searches as further restarts of victims with equal labels. The closest wins.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    Interrupted
        When Ctrl-C ends the search; its ``recovery`` is `found` with what the new searches had come to.
    """
    options = SearchOptions(
        restarts=restarts,
        steps=steps,
        bounds=bounds,
        mean=mean,
        std=std,
        seed=seed,
        max_memory=max_memory,
        distance=distance,
    )
    targets = _checked(model := searchable(model).model, target, found, batched=batched, distance=distance)
    victim = normalised(model, options.mean, options.std, found.inputs.shape[2:])
    name, gradient = _last_linear(victim, targets)
    alike = _searched_with_equal_labels(found)
    if len(alike) == 0:
        return found
    recipe, shape = second_recipe(found.recipe, steps), tuple(found.inputs.shape[2:])
    theirs = [None if entry is None else entry[alike] for entry in targets]
    box = box_of(options.bounds, shape, device=gradient.device) or (0.0, 1.0)
    starts = separating_starts(
        Features(victim, name),
        gradient[alike],
        found.inputs[alike],
        found.labels[alike],
        basis=make_basis(recipe.bases[0], shape, bounds=box, device=gradient.device, dtype=torch.float64),
        restarts=restarts,
        bounds=box,
        seed=seed,
    )
    options = replace(options, recipe=recipe, start=starts, steps=None, exact="off")
    return _searched(model, theirs, found, alike, options)


def _searched_with_equal_labels(found: Recovery) -> Tensor:
    """The victims, but for those whose inputs arithmetic gave."""
    searched = torch.tensor([how != EXACT for how in found.source], device=found.labels.device)
    return (has_equal_labels(found.labels) & searched).nonzero().flatten()


def _searched(
    model: nn.Module, target: list[Tensor | None], found: Recovery, alike: Tensor, options: SearchOptions
) -> Recovery:
    """`found`, with a second search of the victims in `alike`."""
    try:
        again = recover(
            model,
            target,
            found.inputs.shape[2:],
            batch_size=found.inputs.shape[1],
            labels=found.labels[alike],
            batched=True,
            options=options,
        )
    except Interrupted as stop:
        raise Interrupted(joined(found, stop.recovery, alike)) from None
    return joined(found, again, alike)


def _checked(
    model: nn.Module,
    target: TargetGradient,
    found: Recovery,
    *,
    batched: bool,
    distance: object,
) -> list[Tensor | None]:
    """The target gradients ``[V, ...]``, once all arguments fit."""
    device, parameters = check.check_model(model, None)
    batched = check.check_flag("batched", batched)
    if not isinstance(found, Recovery):
        raise TypeError(f"found must be a Recovery, found {type(found).__name__}")
    if distance is None and found.recipe.distance not in kinds():
        raise ValueError(
            f"distance must be given where it is not registered: found was searched with "
            f"{found.recipe.distance!r}"
        )
    targets = checked_target(target, model, parameters, batched=batched, device=device, move=False)
    victims = len(found.distance)
    for entry in targets:
        if entry is not None and entry.shape[0] != victims:
            raise ValueError(f"target must have the {victims} victims of found, found {entry.shape[0]}")
    if found.labels.dim() != 2 or found.labels.is_floating_point():
        raise ValueError(f"found.labels must be whole numbers [R, B], found {list(found.labels.shape)}")
    return targets


def _last_linear(model: nn.Module, targets: list[Tensor | None]) -> tuple[str, Tensor]:
    """The name of the last linear layer, and its weight's gradients ``[V, classes, features]``."""
    layer = find_last_layer([None if entry is None else entry[0] for entry in targets])
    name = [n for n, p in model.named_parameters() if p.requires_grad][layer.weight].rpartition(".")[0]
    if not isinstance(model.get_submodule(name), nn.Linear):
        found = name or "the model itself"
        raise ValueError(f"model must have an nn.Linear as the last layer with a matrix, found {found!r}")
    gradient = targets[layer.weight]
    assert gradient is not None
    return name, gradient


def second_recipe(recipe: Recipe, steps: int | None = None) -> Recipe:
    """The recipe of the second search after one with this recipe; ``steps`` in place of six times its own."""
    return replace(
        recipe,
        steps=_LONGER * recipe.steps if steps is None else steps,
        patience=0,
        shown_scale=_SCALE * recipe.shown_scale,
        box=_BOX * recipe.box,
        tv=min(_TV, recipe.tv * recipe.tv_rest),
        tv_until=1.0,
        tv_rest=1.0,
    )
