"""A cell that attacks images: what decides it, and its run."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.claims.cell import Cell
from benchmarks.claims.scores import median_curve, restart_images, strip, victim_entries
from benchmarks.claims.trace import Traced
from benchmarks.claims.victims import SHAPES, victim_images, victim_network
from benchmarks.shared.victims import shared_gradients
from sapag_fast.clients.named_defences import named_defences
from sapag_fast.recovery.certificate import Family, families
from sapag_fast.recovery.recover import Recovery, recover
from sapag_fast.recovery.separation import second_recipe, separate_equal_labels
from sapag_fast.search.recipe import Recipe

__all__ = ["Plan", "image_cell", "run_plan"]

PICTURED = 5
"""Victims whose recoveries a pictured cell keeps."""


@dataclass(frozen=True)
class Plan:
    """What decides a cell that attacks images; every field is part of its settings.

    Attributes
    ----------
    dataset : str
        ``mnist`` or ``cifar``.
    network, activation, initialisation : str
        See `make_model`.
    epochs : int
        Of training; 0: untrained.
    method : str
        See `make_method`; `recipe`, `labels` and `restarts` are what it comes to. ``sapag-separated``
        searches once, and its `restarts` times again where labels are equal.
    victims : int
        Gradients; each is of `batch_size` images.
    networks : int
        Networks of different seeds, among which the victims are shared out evenly.
    batch_size : int
    distinct : bool
        The images of one gradient have different labels; else labels fall as they may.
    defence : tuple of str
        As on the command line: ``relative-noise:0.1``. Withheld layers take the labels along: they are given
        then, and where a network is so certain of a victim that its gradient holds none.
    training_mode : bool
        The gradient is taken, and matched, with batch statistics (BatchNorm in training mode).
    traced : bool
        Keep the error at each evaluation, for the curve of PSNR. Needs one restart and one network.
    pictured : bool
        Keep a strip of pictures.
    seed : int
        Of starts and networks.
    """

    dataset: str
    network: str
    activation: str
    initialisation: str
    epochs: int
    method: str
    recipe: Recipe
    labels: str
    restarts: int
    victims: int = 20
    networks: int = 4
    batch_size: int = 1
    distinct: bool = False
    defence: tuple[str, ...] = ()
    training_mode: bool = False
    traced: bool = False
    pictured: bool = False
    seed: int = 0


def image_cell(data: Path, group: str, plan: Plan, variant: str = "") -> Cell:
    """The plan as a cell; `variant` goes into its name where the plan's main fields do not tell it apart."""
    phase = f"e{plan.epochs}"
    words = (group, plan.dataset, plan.network, plan.activation, plan.initialisation, phase, plan.method)
    name = ".".join(filter(None, (*words, variant)))
    settings = json.loads(json.dumps(asdict(plan)))
    settings["recipe"] = _of_recipe(plan.recipe, plan.restarts)
    channels = SHAPES[plan.dataset][0]
    if plan.method.startswith("sapag"):
        # They decide when a victim's restarts stop.
        deciding = [_stated(family) for family in families() if family.channels == channels]
        settings["certificates"] = hashlib.sha256("".join(deciding).encode()).hexdigest()[:16]
    if plan.method == "sapag-separated":
        settings["second recipe"] = _of_recipe(second_recipe(plan.recipe), plan.restarts)
    return Cell(name, group, settings, partial(run_plan, data, plan))


def _of_recipe(recipe: Recipe, restarts: int) -> dict[str, object]:
    """The recipe's values; without the widths, where all restarts have the bandwidth itself."""
    values: dict[str, object] = json.loads(json.dumps(asdict(recipe)))
    if all(recipe.width_of(restart) == 1.0 for restart in range(restarts)):
        del values["widths"]
    return values


def _stated(family: Family) -> str:
    """All of a family, as the settings of the results on disk state it."""
    return repr(family).replace("piecewise_linear=", "kinked=")


def run_plan(data: Path, plan: Plan) -> dict[str, object]:
    """Attack all victims of the plan, network by network, and score them."""
    images, labels, places = victim_images(
        data, plan.dataset, plan.victims, plan.batch_size, distinct=plan.distinct
    )
    grouped = images.view(plan.victims, plan.batch_size, *images.shape[1:])
    known = labels.view(plan.victims, plan.batch_size)
    entries: list[dict[str, object]] = []
    accuracies, histories, errors, pictures = [], [], [], []
    wall = cpu = 0.0
    modes: set[str] = set()
    for network, chosen in enumerate(torch.arange(plan.victims).tensor_split(plan.networks)):
        if len(chosen) == 0:
            continue
        model, phase = victim_network(
            data,
            plan.dataset,
            plan.network,
            plan.activation,
            plan.initialisation,
            1000 * plan.seed + network,
            plan.epochs,
        )
        model.train(plan.training_mode)
        accuracies.append(None if phase is None else phase.accuracy)
        truth, answer = grouped[chosen], known[chosen]
        attacked = Traced(model, truth) if plan.traced else model
        began, busy = time.perf_counter(), time.process_time()
        found = _attack(attacked, truth, answer, plan, network)
        wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - busy
        modes.add(found.mode)
        if isinstance(attacked, Traced):
            errors.append(attacked.trace(found))
        numbers = [places[i * plan.batch_size : (i + 1) * plan.batch_size] for i in chosen.tolist()]
        entries += victim_entries(found, truth, answer, numbers, network)
        histories.append(found.history)
        if plan.pictured and len(pictures) < PICTURED:
            pictures += restart_images(found, truth, answer)
    spent = sum(entry["evaluations"] for entry in entries) // plan.batch_size
    result: dict[str, object] = {
        "victims": entries,
        "accuracy": accuracies,
        "mode": sorted(modes),
        "attack seconds": wall,
        "attack cpu seconds": cpu,
        "evaluations": spent,
        "curve": median_curve(histories, errors),
    }
    if plan.pictured:
        result["strip"] = strip(pictures[:PICTURED])
    return result


def _attack(model: nn.Module, truth: Tensor, labels: Tensor, plan: Plan, network: int) -> Recovery:
    target: Sequence[Tensor | None] = shared_gradients(model, truth, labels)
    if isinstance(model, Traced):
        model.errors.clear()  # of the victims themselves
    given: str | Tensor = plan.labels
    # A loss so small that its gradient underflows leaves no label in it.
    unlabelled = bool((target[-1] >= 0).all(-1).any())
    if plan.defence:
        target = named_defences(plan.defence, plan.seed + network)(target, batched=True)
    if any(entry is None for entry in target) or (given == "infer" and unlabelled):
        given = labels
    seed, separated = 1000 * plan.seed + network, plan.method == "sapag-separated"
    found = recover(
        model,
        target,
        tuple(truth.shape[2:]),
        batch_size=plan.batch_size,
        labels=given,
        restarts=1 if separated else plan.restarts,
        recipe=plan.recipe,
        seed=seed,
        batched=True,
        at_once=len(truth) if isinstance(model, Traced) else None,
        exact="auto" if plan.method == "sapag-exact" else "off",  # the others are about the search
    )
    if not separated:
        return found
    return separate_equal_labels(model, target, found, restarts=plan.restarts, seed=seed, batched=True)
