"""Each layer's own work, told apart for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

__all__ = ["FORWARD_PART", "SUMS_PART", "LayerWatch", "told_apart"]

FORWARD_PART, SUMS_PART = "forward", "sums"
"""Parts of a layer's work. Its part of the backward passes is autograd's."""

LayerWatch = Callable[[str, str], AbstractContextManager[None]]
"""``(layer, part)``: that part of the layer's work goes on inside of the context."""

P = ParamSpec("P")
T = TypeVar("T")


def told_apart(watch: LayerWatch | None, layer: str, part: str, work: Callable[P, T]) -> Callable[P, T]:
    """`work` itself where nobody watches, else the same within ``watch(layer, part)``."""
    if watch is None:
        return work

    def watched(*args: P.args, **kwargs: P.kwargs) -> T:
        with watch(layer, part):
            return work(*args, **kwargs)

    return watched
