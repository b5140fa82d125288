"""One run of the loop: the queue, the batch and the outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.matching.base import Matching
from sapag_fast.runtime.cuda_graph import WORTH_CAPTURING, captured
from sapag_fast.runtime.memory import is_out_of_memory
from sapag_fast.runtime.randomness import forked, random_state, set_random_state
from sapag_fast.search.basis import Basis
from sapag_fast.search.batch import IDLE, Batch
from sapag_fast.search.objective import Objective
from sapag_fast.search.optimizers.of_recipe import make_optimizer
from sapag_fast.search.recipe import Recipe
from sapag_fast.search.tasks import AttackResult, Outcomes, Queue

__all__ = ["Run", "Search"]


@dataclass(frozen=True, eq=False)
class Search:
    """What is searched: every task on its own, distance plus penalties, from its start.

    Attributes
    ----------
    matching : Matching
        Distances and their gradients; the loop tells it which victim each row searches.
    starts : Tensor
        ``[T, B, *input_shape]``, T = victims x restarts, victim by victim.
    labels : Tensor
        ``[T, B, ...]``, or with `joint` the logits ``[T, B, classes]``.
    recipe : Recipe
        Optimiser, evaluations, penalties, clipping, stop.
    bases : sequence of Basis
        Coordinates of the search; of several, restart k's are the k-th, and round again.
    bounds : pair of float or None
        The box of the penalty and of the clipping.
    joint : bool
        Labels are searched too.
    restarts : int
        Tasks of a victim; once one of them comes below the recipe's ``stop_distance``, all of them end.
    certified_at : sequence of float, optional
        For each victim a distance: once one of its tasks comes so close, that one goes on to its end, and the
        others end. Negative: never. Through a surrogate, a task counts when it ends, by the network's own
        distance. Which tasks end when is a matter of evaluations, never of time.
    mode_reason : str
        Why the matching is not a faster one.
    """

    matching: Matching
    starts: Tensor
    labels: Tensor
    recipe: Recipe
    bases: Sequence[Basis]
    bounds: tuple[float, float] | None
    joint: bool = False
    restarts: int = 1
    certified_at: Sequence[float] | None = None
    mode_reason: str = ""

    @property
    def objective(self) -> Objective:
        """What every recovery minimises."""
        return Objective(
            self.matching,
            recipe=self.recipe,
            bases=self.bases,
            bounds=self.bounds,
            shape=self.starts.shape[1:],
            joint=self.joint,
        )


class Run:
    """The queue, the batch and the outcomes of one search.

    Parameters
    ----------
    search : Search
    rows : int, optional
        Tasks at once; None: all. Halved whenever memory runs out, and the tasks under way begin anew.
    graphs : bool
        On a GPU, capture the step and replay it for as long as no row leaves or joins.
    """

    def __init__(self, search: Search, rows: int | None = None, *, graphs: bool = True) -> None:
        starts, labels, restarts = search.starts, search.labels, search.restarts
        self.search, self.restarts, self.graphs = search, restarts, graphs
        self.objective = search.objective
        self.recipe, self.steps = search.recipe, search.recipe.steps
        surrogate = self.recipe.surrogate
        self.borders = () if surrogate is None else surrogate.borders(self.steps)
        self.restart_of = torch.arange(starts.shape[0], device=starts.device) % restarts
        self.starts = self.objective.variables(starts.detach(), labels, self.restart_of)
        self.labels = labels
        self.queue = Queue(starts.shape[0] // restarts, restarts)
        self.last_border = max(self.borders, default=-1)
        self.outcomes = Outcomes(self.starts, labels, self.steps, last_border=self.last_border)
        self.handed_out: set[int] = set()
        self.rows = min(rows or starts.shape[0], starts.shape[0])
        self.steady = True  # between two steps, with all rows and the queue in agreement
        self.batch = self._filled()

    def _filled(self) -> Batch:
        tasks = self.queue.take(self.rows)
        optimizer = make_optimizer(self.recipe, len(tasks), self.starts.shape[1], self.starts)
        of_tasks = (self.starts[tasks], self.labels[tasks], self.restart_of[tasks])
        batch = Batch(self.objective, optimizer, *of_tasks, tasks)
        self._changed(batch)
        return batch

    def _changed(self, batch: Batch) -> None:
        """Rows have left or joined."""
        self._retarget([max(task, 0) for task in batch.tasks])

    def _retarget(self, tasks: list[int]) -> None:
        """The next evaluation is of these tasks' victims."""
        victims = [task // self.restarts for task in tasks]
        self.objective.matching.retarget(torch.tensor(victims, device=self.starts.device))
        self.step: Callable[[], None] | None = None

    @property
    def _busy(self) -> list[int]:
        return [row for row, task in enumerate(self.batch.tasks) if task != IDLE]

    def advance(self, evaluations: int) -> bool:
        """Make at most so many steps, up to where a row ends or meets the surrogate's next stage.

        False if none is left.
        """
        if not (busy := self._busy):
            return False
        ages = self.batch.age.tolist()
        self.steady = False
        if changed := [row for row in busy if ages[row] in self.borders]:
            self.batch.renew(changed)
        left = [border - ages[row] for row in busy for border in (*self.borders, self.steps)]
        count = min(evaluations, *(steps for steps in left if steps > 0))
        try:
            if self.step is None and self.graphs and count >= WORTH_CAPTURING:
                self.step = captured(self.batch.step, self.starts.device)
            step = self.step or self.batch.step
            for _ in range(count):
                step()
        except Exception as error:
            if not is_out_of_memory(error) or len(self.batch.tasks) == 1:
                raise
            self._halve()
        return True

    def _halve(self) -> None:
        """Half as many rows; their tasks begin anew, since a step that was cut short cannot be trusted."""
        self.queue.give_back([self.batch.tasks[row] for row in self._busy])
        self.rows = max(len(self.batch.tasks) // 2, 1)
        del self.batch
        self.step = None  # a captured one holds memory too
        if self.starts.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch = self._filled()

    def settle(self) -> None:
        """Collect the rows that have ended, and give their places to waiting tasks."""
        batch, busy = self.batch, self._busy
        age, alive, best = (t.tolist() for t in (batch.age, batch.alive, batch.best_distance))
        solved = {
            batch.tasks[row] // self.restarts
            for row in busy
            # A gentle surrogate's distance says little.
            if best[row] <= self.recipe.stop_distance and age[row] > self.last_border
        }
        leaving = [
            row
            for row in busy
            if age[row] >= self.steps or not alive[row] or batch.tasks[row] // self.restarts in solved
        ]
        self._end(leaving)
        chosen = self._certified(busy, leaving, best)
        self.outcomes.skip(self.queue.drop(solved | chosen.keys()))
        gone = set(leaving)
        others = [
            row
            for row in busy
            if row not in gone and chosen.get(batch.tasks[row] // self.restarts, row) != row
        ]
        self._end(others)
        if not (leaving := sorted(leaving + others)):
            return
        batch.idle(leaving)
        joining = self.queue.take(len(leaving))
        if joining:
            of_tasks = (self.starts[joining], self.labels[joining], self.restart_of[joining])
            batch.begin(leaving[: len(joining)], joining, *of_tasks)
        if (rest := self._busy) and len(rest) < len(batch.tasks) and not self.queue.waiting:
            batch.keep(rest)
        self._changed(batch)

    def _end(self, rows: list[int]) -> None:
        if rows:
            self.outcomes.collect(self.batch, rows, self._distances(rows))

    def _distances(self, rows: list[int]) -> Tensor:
        """The network's own distance at the best iterates of these rows."""
        batch = self.batch
        at = torch.tensor(rows, dtype=torch.long, device=self.starts.device)
        matched = batch.best_distance[at]
        if self.recipe.surrogate is None:
            return matched
        self._retarget([batch.tasks[row] for row in rows])
        # Dropout's numbers here are none of the search's.
        with forked(at.device):
            own = self.objective.network_distance(
                batch.best_variables[at], batch.labels[at], batch.restarts[at]
            )
        self._changed(batch)
        return torch.where(torch.isfinite(matched) & torch.isfinite(own), own, torch.inf)

    def _certified(self, busy: list[int], ended: list[int], best: list[float]) -> dict[int, int]:
        """Find of each victim that a row has certified the row that has come closest.

        Through a surrogate it is one of those that have ended, else any one under way.
        """
        if self.search.certified_at is None:
            return {}
        if self.recipe.surrogate is None:
            seen = [(best[row], row) for row in busy]
        else:
            distance = self.outcomes.distance[[self.batch.tasks[row] for row in ended]]
            seen = list(zip(distance.tolist(), ended, strict=True))
        victims = [self.batch.tasks[row] // self.restarts for _, row in seen]
        closest: dict[int, tuple[float, int]] = {}
        for victim, (distance, row) in zip(victims, seen, strict=True):
            if distance <= self.search.certified_at[victim]:
                closest[victim] = min(closest.get(victim, (math.inf, row)), (distance, row))
        return {victim: row for victim, (_, row) in closest.items()}

    def progress(self) -> tuple[int, Tensor]:
        """Evaluations, averaged over all tasks, and the lowest distance of each so far."""
        lowest, busy = self.outcomes.matched.clone(), self._busy
        tasks = [self.batch.tasks[row] for row in busy]
        lowest[tasks] = self.batch.best_distance[busy]
        done = sum(self.outcomes.ended) * self.steps + int(self.batch.age[busy].sum())
        return done // len(self.outcomes.ended), lowest

    def newly_ended(self) -> list[int]:
        """Victims of which all tasks have ended and that have not been handed out."""
        ended, k = self.outcomes.ended, self.restarts
        victims = [v for v in range(len(ended) // k) if all(ended[v * k : v * k + k])]
        return [victim for victim in victims if victim not in self.handed_out]

    def interrupt(self) -> None:
        """Rows under way keep their best iterates."""
        if rows := self._busy:
            self.outcomes.copy(self.batch, rows, self._distances(rows))

    def result(self, victim: int | None = None) -> AttackResult:
        """Of one victim, or of all."""
        outcomes = self.outcomes
        of = slice(None) if victim is None else slice(victim * self.restarts, (victim + 1) * self.restarts)
        variables, evaluations = outcomes.variables[of], outcomes.evaluations[of]
        longest = int(evaluations.max()) if len(evaluations) else 0
        return AttackResult(
            inputs=self.objective.inputs(variables, self.restart_of[of]),
            labels=self.objective.labels(variables, outcomes.labels[of]),
            matched=outcomes.matched[of],
            distance=outcomes.distance[of],
            objective=outcomes.objective[of],
            evaluations=evaluations,
            finite=outcomes.finite[of],
            history=outcomes.history[:longest, of],
            ended=tuple(outcomes.ended[of]),
            rows=self.rows,
            mode=self.search.matching.mode,
            mode_reason=self.search.mode_reason,
        )

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on with the same bits."""
        batch = {f"batch.{name}": tensor for name, tensor in self.batch.state().items()}
        outcomes = {f"outcomes.{name}": tensor for name, tensor in self.outcomes.state().items()}
        device = self.starts.device
        random = {f"random.{name}": tensor for name, tensor in random_state(device).items()}
        return {
            **batch,
            **outcomes,
            **random,
            "waiting": torch.tensor(self.queue.waiting, dtype=torch.long),
            "handed_out": torch.tensor(sorted(self.handed_out), dtype=torch.long),
            "rows": torch.tensor(self.rows),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}

        self.batch.load(part("batch."))
        self.outcomes.load(part("outcomes."))
        self.queue.waiting = state["waiting"].tolist()
        self.handed_out = set(state["handed_out"].tolist())
        self.rows = int(state["rows"])
        set_random_state(part("random."), self.starts.device)
        self._changed(self.batch)
