"""Which searches wait, and what the ended ones came to.

A *task* is one restart of one victim: task ``victim * restarts + restart``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.search.batch import Batch

__all__ = ["AttackResult", "Outcomes", "Queue", "later_restarts"]


def later_restarts(restarts: int, tasks: Iterable[int]) -> set[int]:
    """The tasks that are later restarts of the same victims than the first of these `tasks`."""
    first: dict[int, int] = {}
    for task in tasks:
        victim, restart = divmod(task, restarts)
        first[victim] = min(first.get(victim, restart), restart)
    return {v * restarts + k for v, lowest in first.items() for k in range(lowest + 1, restarts)}


class Queue:
    """Tasks in the order in which they begin: every victim's first restart, then every victim's second.

    So a victim which is solved early costs no further restart.
    """

    def __init__(self, victims: int, restarts: int) -> None:
        self.restarts = restarts
        self.waiting = [v * restarts + k for k in range(restarts) for v in range(victims)]

    def take(self, count: int) -> list[int]:
        """The next tasks, at most `count`, by number."""
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return sorted(taken)

    def give_back(self, tasks: list[int]) -> None:
        """These tasks begin anew, before all that wait."""
        self.waiting = sorted(tasks, key=lambda t: (t % self.restarts, t)) + self.waiting

    def drop(self, victims: set[int]) -> list[int]:
        """Remove the waiting tasks of these victims, and name them."""
        dropped = [task for task in self.waiting if task // self.restarts in victims]
        self.waiting = [task for task in self.waiting if task // self.restarts not in victims]
        return dropped

    def remove(self, tasks: set[int]) -> None:
        """Remove these tasks, where they wait."""
        self.waiting = [task for task in self.waiting if task not in tasks]


class Outcomes:
    """What every task ended with, one row a task.

    Attributes
    ----------
    variables : Tensor
        ``[T, N]``, the best iterate, the start where there was none.
    labels : Tensor
        ``[T, B, ...]``.
    objective, matched : Tensor
        ``[T]`` there, with and without penalties, as the search saw them; inf where no iterate was finite.
        `matched` has the distance's own bandwidth whatever the restart's width, and is inf, too, where the
        search ended before the surrogate's last stage.
    distance : Tensor
        ``[T]`` there, of the network itself, without penalties: `matched` unless a surrogate stood in for it.
    evaluations : Tensor
        ``[T]``, int64; 0 for a task that never began.
    finite : Tensor
        ``[T]``, bool, False where the task ended on a non-finite value.
    history : Tensor
        ``[steps, T]``.
    ended : list of bool
        T, on the host.
    """

    _tensors = ("variables", "labels", "objective", "matched", "distance", "evaluations", "finite", "history")

    def __init__(self, variables: Tensor, labels: Tensor, steps: int, *, last_border: int = -1) -> None:
        self.last_border = last_border
        tasks = variables.shape[0]
        self.variables = variables.clone()
        self.labels = labels.clone()
        self.objective = variables.new_full((tasks,), torch.inf)
        self.matched = self.objective.clone()
        self.distance = self.objective.clone()
        self.evaluations = torch.zeros(tasks, dtype=torch.long, device=variables.device)
        self.finite = torch.ones(tasks, dtype=torch.bool, device=variables.device)
        self.history = variables.new_full((steps, tasks), torch.nan)
        self.ended = [False] * tasks

    def collect(self, batch: Batch, rows: list[int], matched: Tensor, distance: Tensor) -> None:
        """Copy these rows of the batch to their tasks, and call the tasks ended.

        `matched` and `distance` are ``[len(rows)]``.
        """
        self.copy(batch, rows, matched, distance)
        for row in rows:
            self.ended[batch.tasks[row]] = True

    def copy(self, batch: Batch, rows: list[int], matched: Tensor, distance: Tensor) -> None:
        """Copy these rows of the batch to their tasks."""
        device = self.variables.device
        tasks = torch.tensor([batch.tasks[row] for row in rows], dtype=torch.long, device=device)
        at = torch.tensor(rows, dtype=torch.long, device=device)
        self.variables[tasks] = batch.best_variables[at]
        self.objective[tasks] = batch.best[at]
        comparable = batch.age[at] > self.last_border
        self.matched[tasks] = torch.where(comparable, matched, torch.inf)
        self.distance[tasks] = distance
        self.evaluations[tasks] = batch.evaluations[at]
        self.finite[tasks] = batch.alive[at]
        self.history[:, tasks] = batch.history[at].mT

    def skip(self, tasks: list[int]) -> None:
        """These tasks never begin: their victims are solved."""
        for task in tasks:
            self.ended[task] = True

    def void(self, tasks: list[int], variables: Tensor, labels: Tensor) -> None:
        """These tasks have ended as if they had never begun, at `variables` ``[T, N]`` and `labels`."""
        if not tasks:
            return
        self.skip(tasks)
        self.variables[tasks] = variables[tasks]
        self.labels[tasks] = labels[tasks]
        for tensor in (self.objective, self.matched, self.distance):
            tensor[tasks] = torch.inf
        self.evaluations[tasks] = 0
        self.finite[tasks] = True
        self.history[:, tasks] = torch.nan

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on."""
        return {"ended": torch.tensor(self.ended), **{name: getattr(self, name) for name in self._tensors}}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.ended = state["ended"].tolist()
        for name in self._tensors:
            setattr(self, name, state[name].to(self.variables.device))


@dataclass(frozen=True)
class AttackResult:
    """What every task (victim x restart, T of them, victim by victim) ended with.

    Attributes
    ----------
    inputs : Tensor
        ``[T, B, *input_shape]``, the iterate with the lowest finite objective (distance plus penalties).
    labels : Tensor
        ``[T, B]`` or, with joint labels, the logits ``[T, B, classes]`` that go with it.
    matched, objective : Tensor
        ``[T]`` at that iterate, without and with penalties, as the search saw them; inf where no iterate was
        finite. `matched` has the distance's own bandwidth, whatever the restart's width. With a surrogate, it
        is the surrogate's at its last β, and inf for a task that ended before: a gentler one's is of another
        kind.
    distance : Tensor
        ``[T]`` at that iterate, without penalties, of the network itself.
    evaluations : Tensor
        ``[T]``, int64, evaluations until the task stopped; 0 where it never began, its victim being solved
        or certified.
    finite : Tensor
        ``[T]``, bool, False where the task stopped on a non-finite value.
    history : Tensor
        ``[evaluations of the longest, T]``, the distance at each evaluation, with the restart's width, nan
        after it stopped.
    scale : Tensor
        ``[T]``, what the distance was multiplied with before the penalties were added.
    ended : tuple of bool
        T; False where an interrupt came before.
    rows : int
        Recoveries that ran at once, at the end: fewer than asked for after memory had run out.
    mode, mode_reason : str
        How the recoveries were matched, and why not in a faster way.
    interrupted : bool
        Whether Ctrl-C ended the search.
    """

    inputs: Tensor
    labels: Tensor
    matched: Tensor
    distance: Tensor
    objective: Tensor
    evaluations: Tensor
    finite: Tensor
    history: Tensor
    scale: Tensor
    ended: tuple[bool, ...]
    rows: int
    mode: str
    mode_reason: str
    interrupted: bool = False
