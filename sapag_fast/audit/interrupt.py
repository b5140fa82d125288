"""Ctrl-C during an audit."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

__all__ = ["deferred_interrupt"]


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Have Ctrl-C take effect where the search looks, between two steps: no state is kept half changed.

    Yields whether it was pressed. A second one ends the process at once, and the last checkpoint counts.
    """
    asked = []

    def handler(*_: object) -> None:
        if asked:
            raise SystemExit(130)
        asked.append(True)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
