"""Rules of operators whose weights are bare: those of layers, with gradients carried on to the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from sapag_fast.matching.explicit.bare import Bare, pull_back, push_forward
from sapag_fast.matching.explicit.rules import LayerCall, Rule

__all__ = ["SPREAD", "OperandRule"]


class _SpreadCall(LayerCall):
    """b: the gradient of every recovery's own copy, ``[R, 1, ...]``."""

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: self.b.squeeze(1) for name in names}

    def products(self, weights: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        toward_b = next(iter(weights.values()), None)
        return None, None if toward_b is None or not self.wants_b else toward_b.unsqueeze(1)


class _SpreadRule(Rule):
    name = "spread"

    def call(self, module: Any, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool) -> LayerCall:
        return _SpreadCall(module, a, b, wants_a=False, wants_b=wants_b)


SPREAD = _SpreadRule()
"""Of a tensor that was copied for every recovery."""


class OperandCall(LayerCall):
    """A layer's call whose parameters are functions of a problem's.

    Parameters
    ----------
    inner : LayerCall
        Of the layer.
    rule : OperandRule
        Whose call it is.
    """

    def __init__(self, inner: LayerCall, rule: OperandRule) -> None:
        super().__init__(inner.module, inner.a, inner.b, wants_a=inner.wants_a, wants_b=inner.wants_b)
        self.inner, self.rule = inner, rule

    def _within(self) -> LayerCall:
        """The layer's call, with the memory that this one was given."""
        self.inner.scratch = self.scratch
        return self.inner

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The layer's, carried on; those of several operands add up."""
        wanted = set(names)
        locals_ = [local for local, roots in self.rule.names_of.items() if wanted & set(roots.values())]
        found: dict[str, Tensor] = {}
        for local, gradient in self._within().gradients(locals_).items():
            operand, roots = self.rule.operands[local], self.rule.names_of[local]
            for index, slope in self.rule.carried_back(local, operand, gradient).items():
                name = roots[index]
                if name in wanted:
                    found[name] = found[name] + slope if name in found else slope
        return {name: slope.contiguous() for name, slope in found.items()}

    def products(self, weights: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """The layer's, of V as its operands see it."""
        inner = {}
        for local, roots in self.rule.names_of.items():
            along = {index: weights[name] for index, name in roots.items() if name in weights}
            if along:
                inner[local] = self.rule.carried_forward(local, self.rule.operands[local], along)
        return self._within().products(inner)

    def rows(self, name: str) -> tuple[Tensor, Tensor]:
        """The layer's."""
        return self._within().rows(self.rule.matrices_by_root[name])

    def from_rows(
        self, toward_rows_a: Tensor | None, toward_rows_b: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The layer's."""
        return self._within().from_rows(toward_rows_a, toward_rows_b)


class OperandRule(Rule):
    """A layer's rule with bare tensors for parameters.

    Parameters
    ----------
    rule : Rule
        Of the layer.
    operands : mapping of str to Bare
        By the layer's own names.
    names : sequence of str
        Of the problem's parameters.
    layer : object
        What the layer's calls read sizes from.
    rows : tuple of int, optional
        Of a tensor that has a batch: the dimension, and how many entries of it are one recovery's.

    Attributes
    ----------
    parameters : dict of str to int
        Of the problem's, by name.
    names_of : dict of str to dict
        For each operand the names of its parameters by position.
    """

    def __init__(
        self,
        rule: Rule,
        operands: Mapping[str, Bare],
        names: Sequence[str],
        layer: Any,
        rows: tuple[int, int] | None = None,
    ) -> None:
        self.rule, self.operands, self.layer, self.rows = rule, dict(operands), layer, rows
        self.name = rule.name
        self.names_of = {
            local: {index: names[index] for index in operand.roots} for local, operand in operands.items()
        }
        self.parameters = {name: i for roots in self.names_of.values() for i, name in roots.items()}

    @cached_property
    def matrices_by_root(self) -> dict[str, str]:
        """Of the parameters that are matrices of the layer as they stand, the layer's own names."""
        if self.layer is None or self.rule.reorders:
            return {}
        able = self.rule.matrices_of(self.layer)
        uses = [name for roots in self.names_of.values() for name in roots.values()]
        found = {}
        for local in able & self.operands.keys():
            name = next(iter(self.names_of[local].values()))
            if self.operands[local].is_root and uses.count(name) == 1:
                found[name] = local
        return found

    def matrices_of(self, module: Any) -> frozenset[str]:
        """Operands that are parameters as they stand, where they are matrices of the layer's."""
        return frozenset(self.matrices_by_root)

    def call(self, module: Any, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool) -> LayerCall:
        """The layer's call within one that carries on."""
        return OperandCall(self.rule.call(self.layer, a, b, wants_a=wants_a, wants_b=wants_b), self)

    def carried_back(self, local: str, operand: Bare, gradient: Tensor) -> dict[int, Tensor]:
        """A layer's gradient ``[R, *shape]`` as gradients of the parameters."""
        gradient = self.rule.plain_layout(local, gradient)
        if operand.is_root:
            return {next(iter(operand.roots)): gradient}
        return pull_back(self._make(operand), operand.roots, gradient)

    def carried_forward(self, local: str, operand: Bare, along: Mapping[int, Tensor]) -> Tensor:
        """V of the parameters as V of the layer's operand."""
        if operand.is_root:
            return self.rule.layout(local, next(iter(along.values())))
        full = {
            index: along[index] if index in along else self._zeros(root, along)
            for index, root in operand.roots.items()
        }
        return self.rule.layout(local, push_forward(self._make(operand), operand.roots, full))

    @staticmethod
    def _zeros(root: Tensor, along: Mapping[int, Tensor]) -> Tensor:
        recoveries = next(iter(along.values())).shape[0]
        return root.new_zeros(()).expand(recoveries, *root.shape)

    def _make(self, operand: Bare) -> Any:
        """What makes one recovery's part of the operand, its batch in front."""
        if self.rows is None:
            return operand.make
        dim, count = self.rows
        return lambda values: operand.make(values).movedim(dim, 0).narrow(0, 0, count)
