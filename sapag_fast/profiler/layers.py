"""The layers of explicit mode, told apart: each layer's forward, and its part of the sums."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.matching.explicit.watch import FORWARD_PART, SUMS_PART
from sapag_fast.profiler.timeline import Switch

__all__ = ["FORWARD_PART", "SUMS_PART", "watching_layers"]


@contextlib.contextmanager
def watching_layers(matching: ExplicitMatching, to: Switch) -> Iterator[None]:
    """`to` is told ``(layer, part)`` when a covered layer's own work begins.

    When it ends, `to` is told what was before. Matrices that several layers share count for the first.
    """

    @contextlib.contextmanager
    def watch(layer: str, part: str) -> Iterator[None]:
        outer = to.current
        to.switch((layer, part))
        try:
            yield
        finally:
            to.switch(outer)

    before, matching.watch = matching.watch, watch
    try:
        yield
    finally:
        matching.watch = before
