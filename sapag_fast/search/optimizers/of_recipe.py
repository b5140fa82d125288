"""The optimiser that a recipe names."""

from __future__ import annotations

from torch import Tensor

from sapag_fast.search.optimizers.adam import Adam, Schedule
from sapag_fast.search.optimizers.lbfgs import LBFGS
from sapag_fast.search.optimizers.optimizer import Optimizer
from sapag_fast.search.recipe import Recipe

__all__ = ["make_optimizer"]


def make_optimizer(recipe: Recipe, rows: int, size: int, like: Tensor) -> Optimizer:
    """Make the recipe's optimiser for variables ``[rows, size]`` on the device and of the type of `like`."""
    steps = recipe.steps
    where = {"device": like.device, "dtype": like.dtype}
    if recipe.optimizer == "lbfgs":
        history = max(1, min(recipe.history, steps))
        return LBFGS(rows, size, lr=recipe.lr, history=history, line_search=recipe.line_search, **where)
    milestones = tuple(int(fraction * steps) for fraction in recipe.milestones)
    signed = recipe.optimizer == "signed-adam"
    schedule = Schedule(recipe.lr, milestones, cosine=steps if recipe.cosine else None)
    return Adam(rows, size, schedule, signed=signed, eps=recipe.eps, **where)
