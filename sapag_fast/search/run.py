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
from sapag_fast.search.box import Box
from sapag_fast.search.contrast import Contrast
from sapag_fast.search.objective import Objective
from sapag_fast.search.optimizers.of_recipe import make_optimizer
from sapag_fast.search.recipe import Recipe
from sapag_fast.search.scale import SCALED_KIND, noise_distances, scales
from sapag_fast.search.tasks import AttackResult, Outcomes, Queue, later_restarts

__all__ = ["Run", "Search"]

_SETTLED = 20
"""Evaluations without coming lower after which penalties are no longer at work. Ended before, networks that
skip pixels lose what total variation fills in, and residual ones up to 8 dB."""


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
    bounds : pair of float, pair of Tensor or None
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
    isolated : bool
        Whether what a victim comes to may follow from nothing but that victim and the settings. Then only the
        restarts after one that is solved or certified end, and count as if they had never begun: which those
        are does not follow from when each of them had its turn.
    answered : frozenset of int
        Victims that are not searched: not all of them.
    contrast : Contrast, optional
        What tells the contrast of victims' inputs where the distance does not.
    """

    matching: Matching
    starts: Tensor
    labels: Tensor
    recipe: Recipe
    bases: Sequence[Basis]
    bounds: Box | None
    joint: bool = False
    restarts: int = 1
    certified_at: Sequence[float] | None = None
    mode_reason: str = ""
    isolated: bool = False
    answered: frozenset[int] = frozenset()
    contrast: Contrast | None = None

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
    scale : Tensor, optional
        ``[T]``, the tasks' scales, where an earlier run has measured them.
    """

    def __init__(
        self, search: Search, rows: int | None = None, *, graphs: bool = True, scale: Tensor | None = None
    ) -> None:
        starts, labels, restarts = search.starts, search.labels, search.restarts
        self.search, self.restarts, self.graphs = search, restarts, graphs
        self.objective = search.objective
        self.recipe, self.steps = search.recipe, search.recipe.steps
        surrogate = self.recipe.surrogate
        self.borders = () if surrogate is None else surrogate.borders(self.steps)
        self.restart_of = torch.arange(starts.shape[0], device=starts.device) % restarts
        self.starts = self.objective.variables(starts.detach(), labels, self.restart_of)
        self.labels = labels
        self.widths = self._widths()
        self.queue = Queue(starts.shape[0] // restarts, restarts)
        self.last_border = max(self.borders, default=-1)
        self.outcomes = Outcomes(self.starts, labels, self.steps, last_border=self.last_border)
        self.outcomes.skip(self.queue.drop(set(search.answered)))
        self.handed_out: set[int] = set()
        self.rows = min(rows or starts.shape[0], starts.shape[0])
        self.scale = self._scales() if scale is None else scale.to(starts.device)
        self.every = 1  # evaluations of a row from one judgement to the next
        self.steady = True  # between two steps, with all rows and the queue in agreement
        self.batch = self._filled()

    def _filled(self) -> Batch:
        tasks = self.queue.take(self.rows)
        optimizer = make_optimizer(self.recipe, len(tasks), self.starts.shape[1], self.starts)
        of_tasks = self._of(tasks)
        batch = Batch(self.objective, optimizer, *of_tasks, tasks)
        self._changed(batch)
        return batch

    def _of(self, tasks: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Starts, labels, restarts and scales of these tasks."""
        return self.starts[tasks], self.labels[tasks], self.restart_of[tasks], self.scale[tasks]

    def _scales(self) -> Tensor:
        """``[T]``, what each task's distance is multiplied with: the same for all of a victim's."""
        search, starts = self.search, self.search.starts
        given = self.recipe.scale
        if not isinstance(given, str) or self.recipe.distance != SCALED_KIND:
            return starts.new_full(starts.shape[:1], 1.0 if isinstance(given, str) else given)
        surrogate = self.recipe.surrogate
        age = torch.zeros((), device=starts.device)
        with forked(starts.device):  # dropout's numbers here are none of the search's
            noise = noise_distances(
                search.matching,
                starts,
                search.labels,
                self.restarts,
                bounds=search.bounds,
                sharpness=None if surrogate is None else surrogate.sharpness(age, self.steps),
                rows=self.rows,
            )
        return scales(noise).repeat_interleave(self.restarts)

    def _widths(self) -> Tensor | None:
        """``[T]``, float64, what each task's bandwidth is multiplied with; None where all are 1."""
        widths = [self.recipe.width_of(restart) for restart in range(self.restarts)]
        if set(widths) == {1.0}:
            return None
        return torch.tensor(widths, dtype=torch.float64, device=self.starts.device)[self.restart_of]

    def _changed(self, batch: Batch) -> None:
        """Rows have left or joined."""
        tasks = [max(task, 0) for task in batch.tasks]
        self._retarget(tasks, None if self.widths is None else self.widths[tasks])

    def _retarget(self, tasks: list[int], widths: Tensor | None = None) -> None:
        """The next evaluation is of these tasks' victims."""
        victims = torch.tensor([task // self.restarts for task in tasks], device=self.starts.device)
        if widths is None:
            self.objective.matching.retarget(victims)
        else:
            self.objective.matching.retarget(victims, widths)
        self.step: Callable[[], None] | None = None

    @property
    def _busy(self) -> list[int]:
        return [row for row, task in enumerate(self.batch.tasks) if task != IDLE]

    def advance(self, evaluations: int) -> bool:
        """Make steps up to where a row ends, meets the surrogate's next stage, or is so many evaluations old.

        False if none is left.
        """
        if not (busy := self._busy):
            return False
        ages = self.batch.age.tolist()
        self.steady, self.every = False, evaluations
        if changed := [row for row in busy if ages[row] in self.borders]:
            self.batch.renew(changed)
        left = [border - ages[row] for row in busy for border in (*self.borders, self.steps)]
        looks = (evaluations - ages[row] % evaluations for row in busy)
        count = min(*looks, *(steps for steps in left if steps > 0))
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
        """Collect the rows that have ended, and give their places to waiting tasks.

        A row is judged where its own age says so, whatever the ages of others have the loop look at.
        """
        batch, busy = self.batch, self._busy
        age, best = batch.age.tolist(), batch.best_distance.tolist()
        due = [row for row in busy if age[row] >= self.steps or age[row] % self.every == 0]
        # A gentle surrogate's distance says little.
        solved = [r for r in due if best[r] <= self.recipe.stop_distance and age[r] > self.last_border]
        alive = batch.alive.tolist()
        through = self._through(due, age)
        ended = [
            row for row in due if age[row] >= self.steps or not alive[row] or row in solved or row in through
        ]
        leaving = (self._in_turn if self.search.isolated else self._at_once)(due, solved, ended, best)
        if not leaving:
            return
        batch.idle(leaving)
        joining = self.queue.take(len(leaving))
        if joining:
            batch.begin(leaving[: len(joining)], joining, *self._of(joining))
        if (rest := self._busy) and len(rest) < len(batch.tasks) and not self.queue.waiting:
            batch.keep(rest)
        self._changed(batch)

    def _through(self, due: list[int], age: list[int]) -> list[int]:
        """Rows that end, having arrived or stalled; those that have arrived go on once without TV's lead.

        What has stalled elsewhere ends with it: it holds what noise in the gradient would bring in.
        """
        recipe, batch = self.recipe, self.batch
        if not recipe.patience:
            return []
        distance = batch.scale * batch.best_distance
        share = (distance / (batch.best - distance)).tolist()  # nan or inf without penalties: none arrives
        waited, rest_at = (batch.age - batch.marked_at).tolist(), batch.rest_at.tolist()
        through, led = [], []
        for row in due:
            leads = recipe.leads and age[row] < rest_at[row]
            arrived = share[row] <= recipe.arrived[0 if leads else 1] and waited[row] >= _SETTLED
            if age[row] > self.last_border and (arrived or waited[row] > recipe.patience):
                (led if leads and arrived else through).append(row)
        if led:
            batch.rest(led)
        return through

    def _at_once(self, due: list[int], solved: list[int], ended: list[int], best: list[float]) -> list[int]:
        """Rows that leave where the first restart that is solved ends all, and a certified one the others."""
        busy, tasks = self._busy, self.batch.tasks
        done = {tasks[row] // self.restarts for row in solved}
        ended = sorted({*ended, *(row for row in busy if tasks[row] // self.restarts in done)})
        self._end(ended)
        chosen: dict[int, tuple[float, int]] = {}
        for row, distance in self._certified(due, ended, best):
            victim = tasks[row] // self.restarts
            chosen[victim] = min(chosen.get(victim, (math.inf, row)), (distance, row))
        self.outcomes.skip(self.queue.drop(done | chosen.keys()))
        others = [
            row
            for row in busy
            if row not in ended and chosen.get(tasks[row] // self.restarts, (0.0, row))[1] != row
        ]
        self._end(others)
        return sorted(ended + others)

    def _in_turn(self, due: list[int], solved: list[int], ended: list[int], best: list[float]) -> list[int]:
        """Rows that leave where restarts after one that is solved or certified count for nothing."""
        tasks = self.batch.tasks
        self._end(ended)
        counting = [*solved, *(row for row, _ in self._certified(due, ended, best))]
        later = later_restarts(self.restarts, [tasks[row] for row in counting])
        self.queue.remove(later)
        self.outcomes.void(sorted(later), self.starts, self.labels)
        return sorted({*ended, *(row for row in self._busy if tasks[row] in later)})

    def _end(self, rows: list[int]) -> None:
        if not rows:
            return
        if (contrast := self.search.contrast) is not None:
            tasks = [self.batch.tasks[row] for row in rows]
            self._retarget(tasks, None if self.widths is None else self.widths[tasks])
            with forked(self.starts.device):  # dropout's numbers here are none of the search's
                contrast.bring(self.batch, rows, [task // self.restarts for task in tasks])
            self._changed(self.batch)
        self.outcomes.collect(self.batch, rows, *self._distances(rows))

    def _distances(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Distances at the best iterates of these rows, as the search saw them and of the network itself.

        All have the distance's own bandwidth, by which restarts are compared.
        """
        batch, surrogate = self.batch, self.recipe.surrogate
        at = torch.tensor(rows, dtype=torch.long, device=self.starts.device)
        matched = own = batch.best_distance[at]
        if surrogate is None and self.widths is None:
            return matched, own
        self._retarget([batch.tasks[row] for row in rows])
        best = (batch.best_variables[at], batch.labels[at], batch.restarts[at])
        # Dropout's numbers here are none of the search's.
        with forked(at.device):
            own = self.objective.distance(*best)
            if self.widths is not None:
                common = own if surrogate is None else self.objective.distance(*best, age=batch.age[at])
                narrowed = self.widths[[batch.tasks[row] for row in rows]] != 1.0
                common = torch.where(narrowed & torch.isfinite(matched), common, matched)
                own = common if surrogate is None else own
                matched = common
        self._changed(batch)
        return matched, torch.where(torch.isfinite(matched) & torch.isfinite(own), own, torch.inf)

    def _certified(self, due: list[int], ended: list[int], best: list[float]) -> list[tuple[int, float]]:
        """Find rows that certify their victim, and how close they have come.

        Through a surrogate they are among those that have ended, else any that are due.
        """
        if (certified_at := self.search.certified_at) is None:
            return []
        tasks = self.batch.tasks
        distance = self.outcomes.distance[[tasks[row] for row in ended]]
        seen = dict(zip(ended, distance.tolist(), strict=True))
        if self.recipe.surrogate is None:
            # A narrower kernel's distance is at least the common one.
            seen = dict(sorted(({row: best[row] for row in due} | seen).items()))
        return [(row, d) for row, d in seen.items() if d <= certified_at[tasks[row] // self.restarts]]

    def progress(self) -> tuple[int, Tensor]:
        """Evaluations, averaged over all tasks, and the lowest distance of each so far."""
        lowest, busy = self.outcomes.matched.clone(), self._busy
        tasks = [self.batch.tasks[row] for row in busy]
        lowest[tasks] = self.batch.best_distance[busy]
        done = sum(self.outcomes.ended) * self.steps + int(self.batch.age[busy].sum())
        return done // len(self.outcomes.ended), lowest

    @property
    def all_ended(self) -> bool:
        """Whether no task is left."""
        return all(self.outcomes.ended)

    def newly_ended(self) -> list[int]:
        """Victims of which all tasks have ended and that have not been handed out."""
        ended, k = self.outcomes.ended, self.restarts
        victims = [v for v in range(len(ended) // k) if all(ended[v * k : v * k + k])]
        return [victim for victim in victims if victim not in self.handed_out]

    def interrupt(self) -> None:
        """Rows under way keep their best iterates."""
        if rows := self._busy:
            self.outcomes.copy(self.batch, rows, *self._distances(rows))

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
            scale=self.scale[of],
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
            "scale": self.scale,
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
