"""The layers of explicit mode, told apart from outside: each layer's forward, and its part of the sums."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from sapag_fast.matching.explicit import ExplicitMatching
from sapag_fast.matching.explicit.ghost import MatrixTarget
from sapag_fast.matching.explicit.rules import LayerCall, Rule
from sapag_fast.profiler.stages import replaced
from sapag_fast.profiler.timeline import Switch

__all__ = ["FORWARD_PART", "SUMS_PART", "watching_layers"]

FORWARD_PART, SUMS_PART = "forward", "sums"
"""What is told apart of a layer, as ``(name, part)``. Its part of the backward passes is autograd's."""
_CALL_METHODS = ("gradients", "products", "rows", "from_rows")


def _within(to: Switch, key: tuple[str, str]) -> Callable[[Callable], Callable]:
    """Wraps a function so that `key` is going on within it, and afterwards what was before."""

    def wrap(function: Callable) -> Callable:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before = to.current
            to.switch(key)
            try:
                return function(*args, **kwargs)
            finally:
                to.switch(before)

        return wrapped

    return wrap


def _unowned(owner: Any, name: str) -> Callable:
    """The method, without keeping its owner: what an owner holds of itself would keep its tensors until the
    garbage collector comes by."""
    reference = weakref.ref(owner)

    def method(*args: Any, **kwargs: Any) -> Any:
        found = reference()
        return getattr(type(found), name)(found, *args, **kwargs)

    return method


def _watched_calls(to: Switch, names: dict[int, str]) -> Callable[[Callable], Callable]:
    """Wraps a rule's ``call``: what it makes tells of its own work."""

    def wrap(function: Callable) -> Callable:
        def wrapped(module: nn.Module, *args: Any, **kwargs: Any) -> LayerCall:
            within = _within(to, (names[id(module)], SUMS_PART))
            call = within(function)(module, *args, **kwargs)
            # Of this evaluation alone: nothing to put back.
            for method in _CALL_METHODS:
                setattr(call, method, within(_unowned(call, method)))
            return call

        return wrapped

    return wrap


def _watched_sums(to: Switch, key: tuple[str, str]) -> Callable[[Callable], Callable]:
    """Wraps a `MatrixTarget`'s ``sums``: the row products that it hands out tell of their work too."""
    within = _within(to, key)

    def wrap(function: Callable) -> Callable:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            sums, products = within(function)(*args, **kwargs)
            products.products = within(_unowned(products, "products"))
            return sums, products

        return wrapped

    return wrap


@contextlib.contextmanager
def watching_layers(matching: ExplicitMatching, to: Switch) -> Iterator[None]:
    """`to` is told ``(layer, part)`` whenever a covered layer's own work begins, and what was before when it
    ends. Matrices that several layers share count for the first."""
    covered = matching.network.covered
    names = {id(module): name for name, module, _, _ in covered}
    owners: dict[int, str] = {}
    rules: dict[int, Rule] = {}
    for name, _, rule, own in covered:
        rules[id(rule)] = rule
        for index in own.values():
            owners.setdefault(index, name)
    with contextlib.ExitStack() as stack:
        for name, module, _, _ in covered:
            stack.enter_context(replaced(module, "forward", _within(to, (name, FORWARD_PART))))
        for rule in rules.values():
            stack.enter_context(replaced(rule, "call", _watched_calls(to, names)))
        for index, choice in (matching.choices or {}).items():
            if isinstance(choice.matrix, MatrixTarget):
                key = (owners[index], SUMS_PART)
                stack.enter_context(replaced(choice.matrix, "sums", _watched_sums(to, key)))
        yield
