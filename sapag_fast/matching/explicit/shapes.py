"""Where operators on bare parameters have the batch: learned from two batches of different size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sapag_fast.matching.explicit.rules import NotCovered

__all__ = ["TRIED", "Observation", "Operator", "learned_from"]

TRIED = (2, 3)
"""Numbers of recoveries that are compared."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Observation:
    """One call of an operator on bare parameters and other tensors.

    Attributes
    ----------
    name : str
        Module and operator, for messages.
    function : callable
    given, result : tuple of shapes
        Of the tensors that went in and came out.
    bare, from_inputs : tuple of bool
        Which of those that went in were bare, and which hang on the network's inputs.
    """

    name: str
    function: Callable[..., Any]
    given: tuple[Shape, ...]
    result: tuple[Shape, ...]
    bare: tuple[bool, ...]
    from_inputs: tuple[bool, ...]


@dataclass(frozen=True)
class Operator:
    """What holds for such a call whatever R is.

    Attributes
    ----------
    name : str
        Module and operator, for messages.
    function : callable
    joins : bool
        Whether something else goes in that has the batch: what comes out is no longer bare.
    from_inputs : bool
        Whether that hangs on the network's inputs.
    given, result : tuple of int or None
        The dimension of each tensor that holds the batch; None: none does.
    """

    name: str
    function: Callable[..., Any]
    joins: bool
    from_inputs: bool
    given: tuple[int | None, ...]
    result: tuple[int | None, ...]


def learned_from(runs: Sequence[Sequence[Observation]]) -> list[Operator]:
    """Compare runs of ``TRIED`` recoveries.

    Raises
    ------
    NotCovered
        Where they do not correspond, or a batch does not show in the shapes as it should.
    """
    few, more = runs
    if [one.function for one in few] != [one.function for one in more]:
        raise NotCovered("the model computes otherwise for another batch size")
    return [_operator(one, other) for one, other in zip(few, more, strict=True)]


def _operator(one: Observation, other: Observation) -> Operator:
    given = tuple(_batch(one.name, *both) for both in zip(one.given, other.given, strict=True))
    result = tuple(_batch(one.name, *both) for both in zip(one.result, other.result, strict=True))
    others = [d for d, bare in zip(given, one.bare, strict=True) if not bare]
    from_inputs = any(one.from_inputs)
    joins = from_inputs or any(d is not None for d in others)
    if joins and None in result:
        raise NotCovered(f"{one.name} gives something that all inputs share")
    return Operator(one.name, one.function, joins, from_inputs, given, result)


def _batch(name: str, few: Shape, more: Shape) -> int | None:
    if few == more:
        return None
    differ = [d for d, (a, b) in enumerate(zip(few, more, strict=False)) if a != b]
    if len(few) != len(more) or len(differ) != 1 or few[differ[0]] * TRIED[1] != more[differ[0]] * TRIED[0]:
        shapes = f"{list(few)} and {list(more)} for {TRIED[0]} and {TRIED[1]} recoveries"
        raise NotCovered(f"{name} has tensors of shapes {shapes}")
    return differ[0]


def shapes_of(tensors: Sequence[torch.Tensor]) -> tuple[Shape, ...]:
    """Their shapes."""
    return tuple(tuple(tensor.shape) for tensor in tensors)
