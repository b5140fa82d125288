"""The search loop: many recoveries as one batch that stays full.

A *task* is one search: one restart of one victim. As many tasks as the batch has rows run at once; whenever
some have ended, waiting ones take their rows, and when none waits the batch shrinks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sapag_fast.search.checkpoint import Checkpoint
from sapag_fast.search.run import Run, Search
from sapag_fast.search.tasks import AttackResult

__all__ = ["Ended", "Hooks", "Search", "run_search"]


@dataclass(frozen=True)
class Hooks:
    """Who is told of a search on its way.

    Attributes
    ----------
    progress : callable, optional
        Called with (evaluations, averaged over all tasks; ``[T]`` lowest distances) at each check.
    on_victims : callable, optional
        Called with `Ended` whenever there are victims of which all tasks have ended; those that it does not
        take come again. What it raises ends the search.
    """

    progress: Callable[[int, Tensor], object] | None = None
    on_victims: Callable[[Ended], object] | None = None


@dataclass(frozen=True)
class Ended:
    """Victims of which all tasks have ended, and that have not been taken.

    Attributes
    ----------
    victims : sequence of int
    result : callable
        Gives the result of one of them, T = restarts.
    take : callable
        Told that one of them has been handed out.
    last : bool
        Whether there will be no others.
    """

    victims: Sequence[int]
    result: Callable[[int], AttackResult]
    take: Callable[[int], None]
    last: bool


def run_search(
    search: Search,
    *,
    rows: int | None = None,
    hooks: Hooks | None = None,
    checkpoint: Checkpoint | None = None,
    check_every: int = 20,
    graphs: bool = True,
) -> AttackResult:
    """Search until all tasks have ended, or Ctrl-C comes: then the result says `interrupted`.

    Nothing is read back from the device but every `check_every` steps, when the loop looks which tasks have
    ended. A task that meets a non-finite objective ends with its best iterate.

    Parameters
    ----------
    search : Search
        The tasks.
    rows : int, optional
        Tasks at once; None: all. Halved whenever memory runs out, and the tasks under way begin anew.
    hooks : Hooks, optional
        Who is told of progress and of victims that have ended.
    checkpoint : Checkpoint, optional
        Where to go on from, and to keep the state. Victims that have ended before are not handed out again.
    check_every : int
        Steps between two looks.
    graphs : bool
        On a GPU, capture the step and replay it for as long as no row leaves or joins.
    """
    hooks = hooks or Hooks()
    state = checkpoint.read() if checkpoint is not None else None
    run = Run(search, rows, graphs=graphs, scale=None if state is None else state["scale"])
    if state is not None:
        run.load(state)

    def hand_out() -> None:
        if hooks.on_victims is not None and (victims := run.newly_ended()):
            hooks.on_victims(Ended(victims, run.result, run.handed_out.add, run.all_ended))

    try:
        hand_out()  # what had ended, but was not handed out, before a stop
        while run.advance(check_every):
            run.settle()
            run.steady = True
            if hooks.progress is not None:
                hooks.progress(*run.progress())
            hand_out()
            if checkpoint is not None and checkpoint.due:
                checkpoint.write(run.state())
    except KeyboardInterrupt:
        run.interrupt()
        if checkpoint is not None and run.steady:
            checkpoint.write(run.state())
        return replace(run.result(), interrupted=True)
    if checkpoint is not None:
        checkpoint.remove()
    return run.result()
