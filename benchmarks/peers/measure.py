"""In what turns the contenders run, and on which victims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.victims import Case
from benchmarks.peers.workers import Job, Run, Workers

__all__ = ["Plan", "measure", "victims_for"]

_PROBE = 30  # evaluations of the runs that choose between processes and threads


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes
    ----------
    victims : int
        Those that all contenders share.
    rounds : int
        In each, every contender takes its turn with a part of its victims, one or more for each core.
    evaluations : int
        The most that the victims of one core may take of a budget: long budgets get fewer victims, at least
        one for each core.
    cores : int
    """

    victims: int
    rounds: int
    evaluations: int
    cores: int

    def forms(self) -> list[tuple[int, int]]:
        """(processes, threads): a process a core, or all threads in one process."""
        return [(self.cores, 1), (1, self.cores)] if self.cores > 1 else [(1, 1)]

    def most(self, names: Sequence[str]) -> int:
        """Victims of the one that takes most: enough to fill its batch on every core."""
        return max(self.victims, *(CONTENDERS[name].at_once * self.cores for name in names))


def victims_for(name: str, budget: int, plan: Plan) -> range:
    """The victims that a contender searches with a budget: the shared ones; more where it searches many at
    once, and the first few with a long budget.
    """
    contender = CONTENDERS[name]
    if contender.at_once > 1:
        return range(max(plan.victims, contender.at_once * plan.cores))
    return range(min(plan.victims, plan.cores * max(1, plan.evaluations // budget)))


def measure(
    data: Path,
    case: Case,
    names: Sequence[str],
    plan: Plan,
    workers: Sequence[Workers],
    tell: Callable[[str], object],
) -> tuple[dict[str, tuple[int, int]], list[Run]]:
    """The form that suits each contender, and its runs with all its budgets, the order turning from round to
    round. Contenders that search many victims at once take all of them in every round, and are watched in the
    first; those that do not take the case's images are left out.
    """
    names = [name for name in names if case.channels in CONTENDERS[name].channels]
    count, chosen, runs = plan.most(names), {}, []
    for name in names:
        few = range(max(2, CONTENDERS[name].at_once) * plan.cores)
        probe = Job(data, case, count, name, _PROBE, tuple(few[:count]), watched=0)
        chosen[name] = min(workers, key=lambda pool, probe=probe: pool.run(probe).seconds)
        tell(f"{case.name}: {name} on {chosen[name].form[0]} process(es) of {chosen[name].form[1]} thread(s)")
    for turn in range(plan.rounds):
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            for budget in (budget for budget in CONTENDERS[name].budgets if budget <= case.longest):
                victims = victims_for(name, budget, plan)
                again = CONTENDERS[name].at_once > 1
                # No core stands idle while the few victims of a long budget are searched.
                part = tuple(v for v in victims if again or v // plan.cores % plan.rounds == turn)
                if not part:
                    continue
                watched = 0 if again and turn > 0 else plan.victims
                run = chosen[name].run(Job(data, case, count, name, budget, part, watched))
                won = sum(outcome.success for outcome in run.outcomes)
                runs.append(run)
                tell(
                    f"{case.name}, round {turn + 1}: {name}, {budget} evaluations, {run.seconds:.1f} s, "
                    f"{won} of {len(part)}"
                )
    return {name: pool.form for name, pool in chosen.items()}, runs
