"""Values of arguments by what the argument is: those that have to work, and those that no call may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Pool:
    """What an argument may be given; a callable makes the value anew."""

    good: Sequence[Any]
    bad: Sequence[Any] = field(default_factory=tuple)

    def or_none(self) -> Pool:
        """The same argument, where None stands for its default."""
        return Pool([*self.good, None], [value for value in self.bad if value is not None])


nan, inf = math.nan, math.inf


def count(*good: int) -> Pool:
    return Pool([*good, np.int64(good[0])], [0, -1, 1.5, nan, "3", True, None, [1], inf, 2**80, b"1"])


def weight(*good: float) -> Pool:
    return Pool([*good, np.float32(good[0])], [-1, -1e-9, nan, inf, -inf, "1", None, [0.5], 1j])


def positive(*good: float) -> Pool:
    return Pool([*good], [0, -1.0, nan, inf, "1", [1.0], 1j])


def fraction() -> Pool:
    return Pool([0.0, 0.5, 1.0], [-0.1, 1.1, nan, inf, "half", [0.5]])


def choice(*good: str) -> Pool:
    return Pool(good, ["nope", "", 3, good[0].upper() + "x", [], {}, 1.5, b"x"])


SEED = Pool([0, 7, -1, 2**63], [1.5, "x", 2**64, -(2**63) - 1, None, True, nan, [0]])
FLAG = Pool([True, False], ["yes", 2, 0.5, [], None, torch.ones(2)])
SHAPE = Pool(
    [], [(), (0, 4, 4), (1, -4, 4), "1x4x4", (1.5, 4, 4), None, 3.5, (nan,), [[1, 4, 4]], (True, 4, 4)]
)
DEVICE = Pool(["cpu", torch.device("cpu"), None], ["nope", 3.5, "cuda:999", [], "meta"])
BOUNDS = Pool(
    [(0.0, 1.0), (-1, 1), None], [(1, 0), (0, 0), (nan, 1), (0, inf), 3, (0,), (0, 1, 2), ("a", "b")]
)


def made(*makers: Callable[[], Any]) -> list[Callable[[], Any]]:
    return list(makers)


def _pair(**changes: Any) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(3, 2, generator=generator, **changes), torch.randn(3, generator=generator, **changes)]


GRADIENTS = Pool(
    made(_pair, lambda: tuple(_pair()), lambda: iter(_pair())),
    [
        None,
        3,
        "x",
        [],
        [None, None],
        [1, 2],
        lambda: torch.randn(3, 2),
        lambda: _pair()[:1],
        lambda: _pair(dtype=torch.float64),
        lambda: [t.int() for t in _pair()],
        lambda: [t[:1] for t in _pair()],
        lambda: [t.to_sparse() for t in _pair()],
        lambda: [t.to("meta") for t in _pair()],
        lambda: [_pair()[0].to(torch.complex64), _pair()[1]],
        lambda: [_pair()[0], None],
        lambda: {"a": _pair()[0], "b": _pair()[1]},
        lambda: [[t] for t in _pair()],
    ],
)

LAYER_ROWS = Pool(
    [[1.0], torch.ones(1), np.ones(1), [0.5], None],
    [[nan], [inf], [-1.0], "x", [1.0, 2.0], 3.0, [[[1.0]]], ["a"], [], [1j], lambda: torch.ones(1, 3)],
)
VARIANCE = Pool([*LAYER_ROWS.good, [0.0]], LAYER_ROWS.bad[1:])
"""nan is that of one element, unbiased: such a layer carries no weight."""
LAYERS = Pool(
    [[0, 0], (0, 1), None, np.array([0, 0])],
    [[-1, 0], [0.5, 0], [0], [0, 0, 0], "ab", 3, [nan, 0], [None, 0], [[0], [0]], ["0", "0"]],
)
