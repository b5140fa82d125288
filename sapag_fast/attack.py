"""The attack loop: all recoveries and all their restarts as one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.basis import Basis
from sapag_fast.matching import Matching
from sapag_fast.optimizers import LBFGS, Adam, Optimizer
from sapag_fast.priors import box_prior, total_variation
from sapag_fast.recipes import Recipe

__all__ = ["AttackResult", "run_attack"]


@dataclass(frozen=True)
class AttackResult:
    """What every recovery (victim x restart, R of them) ended with.

    Attributes
    ----------
    inputs : Tensor
        ``[R, B, *input_shape]``, the iterate with the lowest finite objective (distance plus penalties).
    labels : Tensor
        ``[R, B]`` or, with joint labels, the logits ``[R, B, classes]`` that go with it.
    distance, objective : Tensor
        ``[R]`` at that iterate, without and with penalties; inf where no iterate was finite.
    evaluations : Tensor
        ``[R]``, int64, evaluations until the recovery stopped.
    finite : Tensor
        ``[R]``, bool, False where the recovery stopped on a non-finite value.
    history : Tensor
        ``[evaluations, R]``, the distance at each evaluation.
    interrupted : bool
        Whether a KeyboardInterrupt ended the loop.
    """

    inputs: Tensor
    labels: Tensor
    distance: Tensor
    objective: Tensor
    evaluations: Tensor
    finite: Tensor
    history: Tensor
    interrupted: bool


def _optimizer(recipe: Recipe, steps: int, recoveries: int, size: int, like: Tensor) -> Optimizer:
    place = {"device": like.device, "dtype": like.dtype}
    if recipe.optimizer == "lbfgs":
        history = max(1, min(recipe.history, steps))
        return LBFGS(recoveries, size, lr=recipe.lr, history=history, **place)
    milestones = tuple(int(fraction * steps) for fraction in recipe.milestones)
    signed = recipe.optimizer == "signed-adam"
    return Adam(recoveries, size, lr=recipe.lr, signed=signed, milestones=milestones, **place)


def _per_recovery(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old)


def run_attack(
    matching: Matching,
    starts: Tensor,
    labels: Tensor,
    *,
    recipe: Recipe,
    steps: int,
    basis: Basis,
    bounds: tuple[float, float] | None,
    joint: bool = False,
    restarts: int = 1,
    progress: Callable[[int, Tensor], object] | None = None,
    check_every: int = 20,
) -> AttackResult:
    """Minimise distance plus penalties from `starts`, every recovery on its own.

    Nothing is read back from the device but every `check_every` evaluations, when the loop looks whether
    anything is left to do. A recovery that meets a non-finite objective is frozen at its best iterate.

    Parameters
    ----------
    matching : Matching
        Distances and their gradients.
    starts : Tensor
        ``[R, B, *input_shape]``.
    labels : Tensor
        ``[R, B, ...]``, or with `joint` the logits ``[R, B, classes]``.
    recipe : Recipe
        Optimiser, penalties, clipping, stop.
    steps : int
        Evaluations.
    basis : Basis
        Coordinates of the search.
    bounds : pair of float or None
        The box of the penalty and of the clipping.
    restarts : int
        R = victims x restarts, victim-major; used for the stop.
    progress : callable, optional
        Called with (evaluations done, ``[R]`` best distances) at each check and at the end.
    """
    shape = starts.shape
    recoveries, pixels = shape[0], starts[0].numel()
    inputs = starts.detach().clone()
    variables = basis.inverse(inputs).reshape(recoveries, -1)
    if joint:
        variables = torch.cat((variables, labels.flatten(1)), 1)
    optimizer = _optimizer(recipe, steps, recoveries, variables.shape[1], variables)

    best_variables = variables.clone()
    best = torch.full((recoveries,), torch.inf, device=starts.device, dtype=starts.dtype)
    best_distance = best.clone()
    alive = torch.ones(recoveries, dtype=torch.bool, device=starts.device)
    evaluations = torch.zeros(recoveries, dtype=torch.long, device=starts.device)
    history = torch.full((steps, recoveries), torch.nan, device=starts.device, dtype=starts.dtype)
    low, high = bounds if bounds is not None else (-torch.inf, torch.inf)
    done, interrupted = 0, False
    try:
        for index in range(steps):
            inputs = basis.forward(variables[:, :pixels].view(shape))
            current = variables[:, pixels:].view_as(labels) if joint else labels
            distance, gradient, label_gradient = matching.value_and_gradient(inputs, current)
            objective = distance = distance.to(starts.dtype)
            if recipe.box and bounds is not None:
                value, slope = box_prior(inputs, low, high)
                objective, gradient = objective + recipe.box * value, gradient.add(slope, alpha=recipe.box)
            if tv := recipe.tv_at(index, steps):
                value, slope = total_variation(inputs)
                objective, gradient = objective + tv * value, gradient.add(slope, alpha=tv)
            flat = basis.transpose(gradient).reshape(recoveries, -1)
            if label_gradient is not None:
                flat = torch.cat((flat, label_gradient.flatten(1)), 1)

            evaluations += alive
            # A sum is finite only if all its terms are (or they overflow, which is no better).
            alive = alive & torch.isfinite(objective) & torch.isfinite(flat.sum(1))
            better = alive & (objective < best)
            best = torch.where(better, objective, best)
            best_distance = torch.where(better, distance, best_distance)
            best_variables = _per_recovery(better, variables, best_variables)
            history[index] = torch.where(alive, distance, torch.nan)

            step = optimizer.step(flat)
            variables = _per_recovery(alive, variables + step, best_variables)
            if recipe.clip:
                variables[:, :pixels].clamp_(low, high)
            done = index + 1
            if done % check_every == 0 or done == steps:
                if progress is not None:
                    progress(done, best_distance)
                solved = (best_distance <= recipe.stop_distance).view(-1, restarts).any(1, keepdim=True)
                if not bool((alive.view(-1, restarts) & ~solved).any()):
                    break
    except KeyboardInterrupt:
        interrupted = True
    return AttackResult(
        inputs=basis.forward(best_variables[:, :pixels].view(shape)),
        labels=best_variables[:, pixels:].view_as(labels) if joint else labels,
        distance=best_distance,
        objective=best,
        evaluations=evaluations,
        finite=alive,
        history=history[:done],
        interrupted=interrupted,
    )
