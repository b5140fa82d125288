"""A bound on the time and the memory of what runs in this process."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = 1 << 30
"""Bytes that a case may take beyond what the process has before it."""


class Hang(BaseException):
    """Time is up."""


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Raise `Hang` after so many seconds, MemoryError beyond so many bytes."""

    def hung(*_: object) -> None:
        raise Hang(f"no end within {seconds} s")

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, hung)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)
