"""An attack that is ready to step: what `recover` would run on a model, against the gradient of one random
input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sapag_fast import checks as check
from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.distances.layering import model_layers
from sapag_fast.runtime.denormals import flushed_denormals
from sapag_fast.runtime.randomness import seeded
from sapag_fast.search.basis import Basis, make_basis
from sapag_fast.search.batch import Batch
from sapag_fast.search.capacity import first_matching
from sapag_fast.search.loop import make_optimizer
from sapag_fast.search.objective import Objective
from sapag_fast.search.recipe import Recipe, settled_recipe
from sapag_fast.search.starts import make_start, recovery_generator
from sapag_fast.victim.probe import checked_trial, classes_of
from sapag_fast.victim.problem import LossFunction, Problem
from sapag_fast.victim.surrogate import Surrogate

__all__ = ["Overrides", "Preparation", "prepare"]


@dataclass(frozen=True)
class Overrides:
    """What `recover` takes by these names."""

    recipe: str | Recipe = "auto"
    distance: str | GradientDistance | None = None
    optimizer: str | None = None
    steps: int | None = None
    basis: str | Sequence[str] | None = None
    surrogate: str | bool | Surrogate | None = None
    box: float | None = None
    tv: float | None = None
    bounds: tuple[float, float] | None = (0.0, 1.0)
    layers: str | Sequence[int] = "modules"


@dataclass(frozen=True)
class Preparation:
    """The victim and the settings, from which `attack` makes as many recoveries as asked for.

    ``target`` holds one gradient ``[1, *shape]`` (or None) for each trainable parameter, ``label``
    ``[1, B, ...]``.
    """

    model: nn.Module
    loss_fn: LossFunction
    distance: GradientDistance
    target: tuple[Tensor | None, ...]
    label: Tensor
    recipe: Recipe
    bases: tuple[Basis, ...]
    bounds: tuple[float, float] | None
    shape: tuple[int, ...]
    seed: int
    device: torch.device
    dtype: torch.dtype
    moved_to: torch.device | str | None

    def attack(self, recoveries: int) -> Batch:
        """So many restarts against the one target, at their starts. To be made and stepped within
        `conditions`."""
        problem = Problem(
            self.model,
            self.loss_fn,
            self.distance,
            self.target,
            restarts=recoveries,
            device=self.moved_to,
        )
        kinds = self.recipe.starts
        drawn = [
            make_start(kinds[k % len(kinds)], self.shape, self.bounds, recovery_generator(self.seed, 0, k))
            for k in range(recoveries)
        ]
        starts = torch.stack(drawn).to(device=self.device, dtype=self.dtype)
        labels = self.label.repeat_interleave(recoveries, 0)
        matching, _ = first_matching(problem, starts, labels, self.recipe)
        matching.retarget(problem.rows())
        objective = Objective(
            matching,
            recipe=self.recipe,
            steps=self.recipe.steps,
            bases=self.bases,
            bounds=self.bounds,
            shape=self.shape,
        )
        restarts = torch.arange(recoveries, device=self.device)
        variables = objective.variables(starts, labels, restarts)
        optimizer = make_optimizer(self.recipe, self.recipe.steps, recoveries, variables.shape[1], variables)
        return Batch(objective, optimizer, variables, labels, restarts, range(recoveries))

    @contextlib.contextmanager
    def conditions(self) -> Iterator[None]:
        """Those of an attack, with its random numbers seeded and the global ones given back."""
        flush = self.recipe.surrogate is not None and self.device.type == "cpu"
        with (
            seeded(self.seed, self.device),
            sdpa_kernel(SDPBackend.MATH),
            flushed_denormals(flush),
        ):
            yield


def prepare(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None,
    batch_size: int,
    labels: Tensor | Sequence[int] | None,
    overrides: Overrides,
    seed: int,
    device: torch.device | str | None,
) -> Preparation:
    """Check the arguments and make the target.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    """
    place, parameters = check.check_model(model, device)
    shape = check.check_shape(input_shape)
    batch_size = check.check_count("batch_size", batch_size)
    bounds = check.check_bounds(overrides.bounds)
    check.check_seed(seed)
    loss = F.cross_entropy if loss_fn is None else check.check_callable("loss_fn", loss_fn)
    dtype = parameters[0].dtype
    nothing = [torch.zeros_like(p, device=place)[None] for p in parameters]
    draft = Problem(model, loss, GradientDistance(), nothing, device=device)
    with seeded(seed, place), sdpa_kernel(SDPBackend.MATH):
        output, recorder = checked_trial(draft, shape, batch_size, dtype, place)
        generator = recovery_generator(seed, 0, -1)
        truth = make_start("uniform", (batch_size, *shape), bounds, generator).to(place, dtype)
        label = _labels(labels, output, batch_size, generator, place)
        recipe = _recipe(overrides, shape, batch_size, piecewise_linear=recorder.piecewise_linear)
        try:
            gradients = draft.gradients(truth, label[0])
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ValueError(
                f"loss_fn, labels: no gradient of the loss of outputs {list(output.shape)} and labels "
                f"{list(label[0].shape)} ({type(error).__name__}: {error})"
            ) from error
    distance = overrides.distance
    if not isinstance(distance, GradientDistance):
        paired = model_layers(model, overrides.layers)
        distance = GradientDistance(recipe.distance, bandwidth=recipe.bandwidth, layers=paired)
    return Preparation(
        model,
        loss,
        distance,
        tuple(None if g is None else g.detach()[None] for g in gradients),
        label,
        recipe,
        tuple(make_basis(n, shape, bounds=bounds, device=place, dtype=dtype) for n in recipe.bases),
        bounds,
        (batch_size, *shape),
        seed,
        place,
        dtype,
        device,
    )


def _recipe(
    overrides: Overrides, shape: tuple[int, ...], batch_size: int, *, piecewise_linear: bool
) -> Recipe:
    return settled_recipe(
        overrides.recipe,
        shape,
        batch_size,
        piecewise_linear=piecewise_linear,
        distance=overrides.distance,
        optimizer=overrides.optimizer,
        steps=overrides.steps,
        start=None,
        basis=overrides.basis,
        surrogate=overrides.surrogate,
        box=overrides.box,
        tv=overrides.tv,
    )


def _labels(
    labels: Tensor | Sequence[int] | None,
    output: object,
    batch_size: int,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """``[1, B, ...]``: given, or random classes."""
    classes = classes_of(output)
    if labels is None:
        if classes is None:
            found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"labels: random ones need a model whose output is [B, classes], found {found}; give labels="
            )
        return torch.randint(classes, (1, batch_size), generator=generator).to(device)
    return check.check_labels(
        labels, victims=1, batch_size=batch_size, batched=False, classes=None, device=device
    )
