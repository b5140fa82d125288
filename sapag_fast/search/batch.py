"""The recoveries under way: R rows that advance together, and leave and join between steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sapag_fast.matching.base import REST, StageHook
from sapag_fast.search.objective import Objective
from sapag_fast.search.optimizers import Optimizer

__all__ = ["IDLE", "OPTIMISER", "Batch"]

OPTIMISER = "optimiser"
"""A stage of a step, beside those of an evaluation."""

IDLE = -1
"""The task of a row that has nothing to do."""


class Batch:
    """R rows, each with its iterate, its best iterate and its place in the optimiser.

    Everything a step touches is updated in place and nothing is read back from the device, so that a step can
    be captured as a graph. A row that meets a non-finite objective stays frozen at its best iterate.

    Attributes
    ----------
    tasks : list of int
        R, the task of each row, or `IDLE`.
    restarts : Tensor
        ``[R]``, int64, which restart of its victim the row's task is: it decides basis and prior weights.
    scale : Tensor
        ``[R]``, of the distances of the row's victim.
    age : Tensor
        ``[R]``, int64, evaluations since the row's task began, frozen or not.
    evaluations : Tensor
        ``[R]``, int64, those before it froze.
    alive : Tensor
        ``[R]``, bool, False once frozen.
    rest_at : Tensor
        ``[R]``, int64, the age at which the row's total variation leads no longer.
    mark, marked_at : Tensor
        ``[R]``, the objective when it last came down by the recipe's `progress`, and the age then (int64).
    best, best_distance : Tensor
        ``[R]``, lowest finite objective and the distance there; inf where there was none.
    history : Tensor
        ``[R, steps]``, the distance at each evaluation, nan after the row froze.
    stages : callable or None
        Who is told when the optimiser's stage of a step begins and ends; the matching tells of its own.
    """

    _tensors = (
        "variables",
        "labels",
        "restarts",
        "scale",
        "best_variables",
        "best",
        "best_distance",
        "alive",
        "age",
        "evaluations",
        "rest_at",
        "mark",
        "marked_at",
        "history",
    )

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        variables: Tensor,
        labels: Tensor,
        restarts: Tensor,
        scale: Tensor,
        tasks: Sequence[int],
    ) -> None:
        rows = variables.shape[0]
        self.objective, self.optimizer = objective, optimizer
        self.stages: StageHook | None = None
        self.tasks = list(tasks)
        self.variables = variables.clone()
        self.labels = labels.clone()
        self.restarts = restarts.clone()
        self.scale = scale.clone()
        self.best_variables = variables.clone()
        self.best = variables.new_full((rows,), torch.inf)
        self.best_distance = self.best.clone()
        self.alive = torch.ones(rows, dtype=torch.bool, device=variables.device)
        self.age = torch.zeros(rows, dtype=torch.long, device=variables.device)
        self.evaluations = self.age.clone()
        self.rest_at = self.age + self._rest_at()
        self.mark = self.best.clone()
        self.marked_at = self.age.clone()
        self.history = variables.new_full((rows, objective.steps), torch.nan)

    def _rest_at(self) -> int:
        recipe = self.objective.recipe
        return math.ceil(recipe.tv_until * recipe.steps)

    def step(self) -> None:
        """One evaluation of every row, and one step of the optimiser."""
        evaluation = self.objective.evaluate(
            self.variables, self.labels, self.age, self.restarts, self.scale, self.age < self.rest_at
        )
        self.evaluations += self.alive
        # A sum is finite only if all its terms are (or they overflow, which is no better).
        finite = torch.isfinite(evaluation.objective) & torch.isfinite(evaluation.gradient.sum(1))
        # A line search goes back from a trial that is not finite; only from its start it cannot.
        self.alive &= finite | torch.isfinite(self.best) if self.objective.recipe.line_search else finite
        better = self.alive & finite & (evaluation.objective < self.best)
        self.best.copy_(torch.where(better, evaluation.objective, self.best))
        self.best_distance.copy_(torch.where(better, evaluation.distance, self.best_distance))
        torch.where(better[:, None], self.variables, self.best_variables, out=self.best_variables)
        lower = self.best < (1.0 - self.objective.recipe.progress) * self.mark
        self.mark.copy_(torch.where(lower, self.best, self.mark))
        self.marked_at.copy_(torch.where(lower, self.age, self.marked_at))
        # A row that is older than its steps is idle, and its last place in the history will not be read.
        last = self.age.clamp(max=self.history.shape[1] - 1)[:, None]
        seen = torch.where(self.alive, evaluation.distance, torch.nan)
        self.history.scatter_(1, last, seen[:, None])
        larger = self.objective.recipe.shown_scale
        shown = (evaluation.gradient, evaluation.objective)
        if larger != 1.0:
            shown = (larger * evaluation.gradient, larger * evaluation.objective)
        if self.stages is not None:
            self.stages(OPTIMISER)
        moves = self.optimizer.step(*shown)
        if self.stages is not None:
            self.stages(REST)
        self.variables += moves
        torch.where(self.alive[:, None], self.variables, self.best_variables, out=self.variables)
        self.objective.clip(self.variables)
        self.age += 1

    def renew(self, rows: Sequence[int]) -> None:
        """Go on from the best iterates of these rows, whose objective has changed.

        Iterates from now on are compared among themselves. Rows that are frozen stay as they are.
        """
        at = torch.tensor(rows, dtype=torch.long, device=self.variables.device)
        self.variables[at] = self.best_variables[at]
        self.best[at] = torch.where(self.alive[at], torch.inf, self.best[at])
        self.mark[at] = torch.inf
        self.marked_at[at] = self.age[at]
        self.optimizer.resume(at)

    def rest(self, rows: Sequence[int]) -> None:
        """Total variation of these rows leads no longer: they go on as renewed."""
        at = torch.tensor(rows, dtype=torch.long, device=self.variables.device)
        self.rest_at[at] = self.age[at]
        self.renew(rows)

    def begin(
        self,
        rows: Sequence[int],
        tasks: Sequence[int],
        variables: Tensor,
        labels: Tensor,
        restarts: Tensor,
        scale: Tensor,
    ) -> None:
        """Give these rows new tasks, which begin at `variables` ``[len(rows), N]``."""
        at = torch.tensor(rows, dtype=torch.long, device=self.variables.device)
        for row, task in zip(rows, tasks, strict=True):
            self.tasks[row] = task
        self.variables[at] = variables
        self.best_variables[at] = variables
        self.labels[at] = labels
        self.restarts[at] = restarts
        self.scale[at] = scale
        self.best[at] = torch.inf
        self.best_distance[at] = torch.inf
        self.alive[at] = True
        self.age[at] = 0
        self.evaluations[at] = 0
        self.rest_at[at] = self._rest_at()
        self.mark[at] = torch.inf
        self.marked_at[at] = 0
        self.history[at] = torch.nan
        self.optimizer.restart(at)

    def idle(self, rows: Sequence[int]) -> None:
        """These rows have no task any more."""
        for row in rows:
            self.tasks[row] = IDLE

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay, in this order."""
        at = torch.tensor(rows, dtype=torch.long, device=self.variables.device)
        self.tasks = [self.tasks[row] for row in rows]
        for name in self._tensors:
            setattr(self, name, getattr(self, name)[at])
        self.optimizer.keep(at)

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on with the same bits."""
        rows = {name: getattr(self, name) for name in self._tensors}
        optimizer = {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state().items()}
        return {"tasks": torch.tensor(self.tasks, dtype=torch.long), **rows, **optimizer}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        device = self.variables.device
        self.tasks = state["tasks"].tolist()
        for name in self._tensors:
            setattr(self, name, state[name].to(device))
        prefix = "optimizer."
        self.optimizer.load(
            {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        )
