"""Which of a network's parameters are marked as bare, when."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sapag_fast.matching.explicit.bare import Bare, Handler
from sapag_fast.matching.explicit.rules import NotCovered, Rule

__all__ = ["BareRule", "Covered", "Marks"]


class BareRule(Rule):
    """Of modules whose parameters' operators have rules, each its own."""

    name = "operators"


@dataclass(frozen=True)
class Covered:
    """A module with parameters of its own.

    Attributes
    ----------
    name : str
    shown : str
        For messages.
    module : nn.Module
    rule : Rule
    own : dict of str to int
        Its own names of its parameters, and their positions in the problem's list.
    """

    name: str
    shown: str
    module: nn.Module
    rule: Rule
    own: dict[str, int]

    @property
    def is_layer(self) -> bool:
        """Whether a layer's rule takes care of the parameters inside of the module."""
        return not isinstance(self.rule, BareRule)


class Marks:
    """Marks all parameters, to see which operators use them outside of layers; then leaves those unmarked.

    Parameters
    ----------
    covered : sequence of Covered
    handler : Handler
        Of the operators on marked parameters.
    """

    def __init__(self, covered: Sequence[Covered], handler: Handler) -> None:
        self.covered = covered
        self.plain: dict[nn.Module, dict[str, nn.Parameter | None]] = {}
        marked: dict[int, Bare] = {}
        for layer in covered:
            parameters = dict(layer.module._parameters)
            if layer.is_layer:
                self.plain[layer.module] = parameters
            for local, index in layer.own.items():
                parameter = parameters[local]
                assert parameter is not None
                if index not in marked:
                    marked[index] = Bare.root(parameter, index, handler)
                layer.module._parameters[local] = marked[index]  # type: ignore[assignment]

    def keep(self, used: Mapping[int, str]) -> None:
        """Unmark the parameters of layers that no operator uses outside of them.

        Parameters
        ----------
        used : mapping of int to str
            The operators, by the parameter's position.

        Raises
        ------
        NotCovered
            Where a layer's gradients come in an order that those of operators do not have.
        """
        for layer in self.covered:
            strays = [local for local, index in layer.own.items() if index in used]
            if not layer.is_layer:
                continue
            if not strays:
                layer.module._parameters.update(self.plain.pop(layer.module))
            elif layer.rule.reorders:
                operator = used[layer.own[strays[0]]]
                raise NotCovered(
                    f"{layer.shown}: outside of it the operator {operator!r} uses its {strays[0]!r}"
                )

    @contextlib.contextmanager
    def lifted(self, module: nn.Module) -> Iterator[None]:
        """Inside of a layer its rule takes care of its parameters."""
        plain = self.plain.get(module)
        if plain is None:
            yield
            return
        marked = dict(module._parameters)
        module._parameters.update(plain)
        try:
            yield
        finally:
            module._parameters.update(marked)
