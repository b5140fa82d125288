"""What a search tells of its progress: a bar, or a call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.runtime.extras import needs

__all__ = ["progress_callback"]


@contextlib.contextmanager
def progress_callback(progress: object, steps: int) -> Iterator[Callable[[int, Tensor], object] | None]:
    """The callable that the attack tells, or None: `progress` is what `recover` was given."""
    if progress is None or progress is False:
        yield None
        return
    if progress is not True:
        yield check.check_callable("progress", progress)
        return
    with needs("cli", "progress bars"):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from sapag_fast.runtime.screen import Screen

    columns = (
        TextColumn("recovering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("lowest distance {task.fields[lowest]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Screen()) as bar:
        task = bar.add_task("", total=steps, lowest="-")
        yield lambda done, best: bar.update(task, completed=done, lowest=f"{best.min().item():.3g}")
