"""The display of an audit under way."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from sapag_fast.runtime.extras import needs
from sapag_fast.runtime.screen import Screen

with needs("audit", "audits"):
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["AuditProgress"]


class AuditProgress:
    """Victims done, recoveries a minute, time left, successes or the median distance, skipped victims.

    Parameters
    ----------
    screen : Screen
    victims : int
    known : iterable of (bool or None, float or None)
        Success (None: the truth is not known) and distance of the victims that earlier sessions finished.
    skipped : callable
        How many victims have been skipped.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        victims: int,
        known: Iterable[tuple[bool | None, float | None]],
        skipped: Callable[[], int],
    ) -> None:
        self.victims, self.skipped = victims, skipped
        self.done = self.successes = 0
        self.truth = False
        self.distances: list[float] = []  # sorted: their median is shown at every step
        self._before = self._wave = self._later = 0
        self._first: tuple[float, float] | None = None
        self._bar = Progress(
            TextColumn("auditing"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=screen,
        )
        self._task = self._bar.add_task("", total=victims, state="")
        for success, distance in known:
            self._count(success, distance)

    def __enter__(self) -> AuditProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show("")
        self._bar.stop()

    def begin_wave(self, recoveries: int, later: int) -> None:
        """The next wave has so many recoveries, and so many are left after it."""
        self._before += self._wave
        self._wave, self._later = recoveries, later

    def finished(self, success: bool | None, distance: float | None) -> None:
        """One victim more has its result."""
        self._count(success, distance)

    def searched(self, recoveries: float) -> None:
        """So many of the wave's recoveries are done, in part ones counted by their evaluations."""
        now, total = time.monotonic(), self._before + recoveries
        if self._first is None:
            self._first = now, total
        seconds, made = now - self._first[0], total - self._first[1]
        if made <= 0 or seconds <= 0:
            self._show("")
            return
        rate = made / seconds
        left = (self._wave - recoveries + self._later) / rate
        self._show(f"{60 * rate:.3g} recoveries/min, {_clock(left)} left, ")

    def _count(self, success: bool | None, distance: float | None) -> None:
        self.done += 1
        self.truth |= success is not None
        self.successes += bool(success)
        if distance is not None:
            bisect.insort(self.distances, distance)

    def _show(self, pace: str) -> None:
        if self.truth:
            outcome = f", {self.successes} recovered"
        elif self.distances:
            outcome = f", median distance {self.distances[len(self.distances) // 2]:.3g}"
        else:
            outcome = ""
        skipped = f", {self.skipped()} skipped" if self.skipped() else ""
        state = f"{pace}{self.done}/{self.victims} victims{outcome}{skipped}"
        self._bar.update(self._task, completed=self.done + self.skipped(), state=state)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
