"""The stages of an attack's step, told apart from outside: while a step is watched, instances of the attack
carry wrapped methods; the attack's own code knows nothing of it, and costs nothing when it is not watched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sapag_fast.matching.base import Matching
from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.matching.explicit import matching as explicit_matching
from sapag_fast.matching.one_by_one import SequentialMatching, SingleMatching
from sapag_fast.matching.vmap import VmapMatching
from sapag_fast.profiler.timeline import Switch
from sapag_fast.search.batch import Batch

__all__ = [
    "FIRST_BACKWARD",
    "FORWARD",
    "OPTIMISER",
    "REST",
    "SECOND_BACKWARD",
    "STAGES",
    "SUMS",
    "replaced",
    "watched_step",
    "watching",
]

FORWARD = "forward"
FIRST_BACKWARD = "first backward"
SUMS = "sums and distance"
SECOND_BACKWARD = "second backward"
OPTIMISER = "optimiser"
REST = "the rest"
STAGES = (FORWARD, FIRST_BACKWARD, SUMS, SECOND_BACKWARD, OPTIMISER, REST)
"""In the order of a step. The forward includes the victim's loss, the sums all that lies between the two
passes backward; the rest is the basis, the penalties and the book-keeping of best iterates."""


@contextlib.contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Callable], Callable]) -> Iterator[None]:
    """``owner.name`` is ``wrap(owner.name)`` meanwhile: of an instance or a module, never of its class."""
    had = name in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        if had:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


def _during(to: Switch, before: str | None, after: str | None) -> Callable[[Callable], Callable]:
    """Wraps a function: `before` begins with it, `after` once it has returned; None changes nothing."""

    def wrap(function: Callable) -> Callable:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                to.switch(before)
            found = function(*args, **kwargs)
            if after is not None:
                to.switch(after)
            return found

        return wrapped

    return wrap


def _borders(matching: Matching, to: Switch) -> list[contextlib.AbstractContextManager]:
    """Where stages change inside an evaluation, by the way in which recoveries are batched."""
    if isinstance(matching, ExplicitMatching):
        return [
            # The module's own name for it: what loss it is decides how it is batched.
            replaced(explicit_matching, "losses", _during(to, None, FIRST_BACKWARD)),
            replaced(matching, "_calls", _during(to, SUMS, None)),
            replaced(matching, "_pull_back", _during(to, SECOND_BACKWARD, None)),
        ]
    if isinstance(matching, VmapMatching):
        return [
            replaced(matching.problem, "loss_fn", _during(to, None, FIRST_BACKWARD)),
            replaced(matching, "_evaluate", _during(to, SUMS, SECOND_BACKWARD)),
        ]
    singles = matching.victims if isinstance(matching, SequentialMatching) else [matching]
    if not all(isinstance(single, SingleMatching) for single in singles):
        raise TypeError(f"matching: no stages are known of a {type(matching).__name__}")
    borders = [
        replaced(singles[0].problem, "loss_fn", _during(to, None, FIRST_BACKWARD)),
        replaced(singles[0].problem, "pull_back", _during(to, SUMS, None)),
    ]
    for single in singles:
        borders.append(replaced(single.distance, "distance_and_gradient", _during(to, None, SECOND_BACKWARD)))
        if single is not matching:
            borders.append(replaced(single, "value_and_gradient", _during(to, FORWARD, REST)))
    return borders


@contextlib.contextmanager
def watching(batch: Batch, to: Switch) -> Iterator[None]:
    """`to` is told whenever a stage of the batch's steps begins, within `watched_step`."""
    matching = batch.objective.matching
    with contextlib.ExitStack() as stack:
        for border in _borders(matching, to):
            stack.enter_context(border)
        stack.enter_context(replaced(matching, "value_and_gradient", _during(to, FORWARD, REST)))
        stack.enter_context(replaced(batch.optimizer, "step", _during(to, OPTIMISER, REST)))
        yield


def watched_step(batch: Batch, to: Switch) -> None:
    """One step between the beginning and the end of the account."""
    to.switch(REST)
    batch.step()
    to.switch(None)
