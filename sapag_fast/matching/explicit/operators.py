"""Operators on bare parameters: every recovery gets a gradient of its own.

Linear maps and convolutions with weights that no layer covers are captured like those layers. Before any
other operator a bare tensor is spread out over the recoveries, and the gradient that arrives at each
recovery's copy is what is captured: the operator itself runs through ``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

from sapag_fast.matching.explicit.attention import attention_forward
from sapag_fast.matching.explicit.bare import Bare
from sapag_fast.matching.explicit.functions import Known, known_function
from sapag_fast.matching.explicit.operands import SPREAD, OperandRule
from sapag_fast.matching.explicit.rules import NotCovered
from sapag_fast.matching.explicit.shapes import Observation, Operator, learned_from, shapes_of

__all__ = ["Operators"]


Listener = Callable[[OperandRule, Tensor, Tensor], None]
"""Takes down a rule, its ``a``, and the output where the gradient comes by."""


class Operators:
    """Carries out the operators on a network's bare parameters.

    Parameters
    ----------
    names : sequence of str
        Of the problem's parameters.
    owners : dict of int to str
        For messages: the module of each bare parameter, by position.
    capture : callable
        Is told of every captured operator.

    Attributes
    ----------
    operators : list of Operator, or None
        In the order of their calls; None until they are known.
    used : dict of int to str
        The parameters that operators on the way from the inputs use, by position, and one such operator.
    """

    def __init__(self, names: list[str], owners: dict[int, str], capture: Listener) -> None:
        self.names, self.owners, self.capture = names, owners, capture
        self.operators: list[Operator] | None = None
        self.observed: list[list[Observation]] = []
        self.used: dict[int, str] = {}
        self.joining: set[int] = set()
        self.next = self.recoveries = 0
        self.running = False

    def begin(self, recoveries: int) -> None:
        """A forward of so many recoveries begins."""
        self.next, self.recoveries, self.running = 0, recoveries, True
        if self.operators is None:
            self.observed.append([])

    def end(self) -> None:
        """The forward is over; what comes in the passes back is not the network's."""
        self.running = False

    def end_learning(self) -> bool:
        """Whether the forwards until here, of ``shapes.TRIED`` recoveries, told all there is to know.

        A constant as large as the batch shows in the comparison alone; what follows it is then seen anew.
        """
        operators, self.observed = learned_from(self.observed), []
        for position, operator in enumerate(operators):
            if operator.joins and position not in self.joining:
                self.joining.add(position)
                if not operator.from_inputs:
                    return False
        self.operators = operators
        return True

    def handle(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """The result of an operator on bare tensors."""
        if func is F.multi_head_attention_forward:
            return attention_forward(*args, **kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        if not self.running or not torch.is_grad_enabled() or func in _CUT_OFF:
            args, kwargs = tree_unflatten([_plain(leaf) for leaf in leaves], spec)
            return func(*args, **kwargs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if all(type(tensor) is Bare for tensor in tensors):
            return self._derive(func, leaves, spec)
        if self.operators is None:
            return self._observe(func, leaves, spec)
        operator = self._next(self._shown(func, leaves), func)
        if not operator.joins:
            return self._derive(func, leaves, spec)
        written = _written_in_place(func)
        if written is None:
            return self._join(operator, func, leaves, spec)
        if written is func or type(leaves[0]) is Bare:
            raise NotCovered(f"{operator.name} writes in place")
        return leaves[0].copy_(self._join(operator, written, [leaves[0].clone(), *leaves[1:]], spec))

    def enter(self, layer: type[nn.Module], argument: Any) -> Any:
        """What a layer with a rule is called with: of a bare tensor each recovery's own copy."""
        if type(argument) is not Bare:
            return argument
        if not self.running or not torch.is_grad_enabled():
            return argument.plain
        name = self._shown(layer, [argument])
        if self.operators is None:
            shape = shapes_of([argument.plain])
            self.observed[-1].append(Observation(name, layer, shape, shape, (True,), (True,)))
            return argument.plain.detach().requires_grad_()
        operator = self._next(name, layer)
        dim = operator.given[0]
        copies, _ = self._copies(argument, dim)
        return self._together(copies, dim)

    def _next(self, name: str, func: Callable[..., Any]) -> Operator:
        known = self.operators or []
        if self.next >= len(known) or known[self.next].function is not func:
            raise NotCovered(f"{name} does otherwise than at first")
        self.next += 1
        return known[self.next - 1]

    def _shown(self, func: Callable[..., Any], leaves: Iterable[Any]) -> str:
        """Module, operator and parameter."""
        index = next(iter(next(leaf for leaf in leaves if type(leaf) is Bare).roots))
        local = self.names[index].rpartition(".")[2]
        return f"{self.owners[index]}: the operator {_name(func)!r} on its parameter {local!r}"

    def _observe(self, func: Callable[..., Any], leaves: list[Any], spec: TreeSpec) -> Any:
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        bare = tuple(type(tensor) is Bare for tensor in given)
        depends = tuple(type(tensor) is not Bare and tensor.requires_grad for tensor in given)
        before = shapes_of([_plain(tensor) for tensor in given])
        joins = any(depends) or len(self.observed[-1]) in self.joining
        if not joins:
            result = self._derive(func, leaves, spec)
        else:
            args, kwargs = tree_unflatten([_plain(leaf) for leaf in leaves], spec)
            result = func(*args, **kwargs)
            indices = {index for leaf in leaves if type(leaf) is Bare for index in leaf.roots}
            self.used.update((index, _name(func)) for index in indices)
        after = shapes_of([_plain(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])
        name = self._shown(func, leaves)
        self.observed[-1].append(Observation(name, func, before, after, bare, depends))
        return result

    def _derive(self, func: Callable[..., Any], leaves: list[Any], spec: TreeSpec) -> Any:
        """A function of parameters and constants alone: bare again."""
        args, kwargs = tree_unflatten([_plain(leaf) for leaf in leaves], spec)
        with torch.no_grad():
            result = func(*args, **kwargs)
        found, outer = tree_flatten(result)
        if not any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in found):
            return result
        if _written_in_place(func) is not None:
            raise NotCovered(f"{self._shown(func, leaves)} writes in place")
        roots = {i: root for leaf in leaves if type(leaf) is Bare for i, root in leaf.roots.items()}

        def made(position: int) -> Callable[..., Tensor]:
            def make(values: Any) -> Tensor:
                now = [leaf.make(values) if type(leaf) is Bare else leaf for leaf in leaves]
                args, kwargs = tree_unflatten(now, spec)
                return tree_leaves(func(*args, **kwargs))[position]

            return make

        marked = [
            Bare.of(leaf, roots, made(position), self) if isinstance(leaf, Tensor) else leaf
            for position, leaf in enumerate(found)
        ]
        return tree_unflatten(marked, outer)

    def _join(self, operator: Operator, func: Callable[..., Any], leaves: list[Any], spec: TreeSpec) -> Any:
        """The operator on bare and other tensors, captured where a graph is kept."""
        args, kwargs = tree_unflatten(leaves, spec)
        known = known_function(func, args, kwargs, operator.given)
        if known is not None:
            return self._apply(operator, known)
        return self._spread(operator, func, leaves, spec)

    def _apply(self, operator: Operator, known: Known) -> Tensor:
        """A linear map or convolution, by its layer's rule."""
        x = known.x.movedim(known.batch, 0)
        output = known.function(x)
        if not output.requires_grad:
            output = output.detach().requires_grad_().clone()
        self.capture(OperandRule(known.rule, known.operands, self.names, known.layer), x, output)
        return output.movedim(0, known.batch).contiguous()

    def _spread(self, operator: Operator, func: Callable[..., Any], leaves: list[Any], spec: TreeSpec) -> Any:
        """Any operator, by vmap over the recoveries, each with its own copy of what is bare."""
        dims = iter(operator.given)
        mapped: list[Tensor] = []
        in_dims: list[int | None] = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                dim = next(dims)
                split, at = self._copies(leaf, dim) if type(leaf) is Bare else self._split(leaf, dim)
                mapped.append(split)
                in_dims.append(at)

        def one(*tensors: Tensor) -> Any:
            each = iter(tensors)
            now = [next(each) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            args, kwargs = tree_unflatten(now, spec)
            return func(*args, **kwargs)

        try:
            result = torch.func.vmap(one, tuple(in_dims), randomness="different")(*mapped)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise NotCovered(f"{operator.name} does not run through vmap ({error})") from error
        where = iter(operator.result)

        def together(found: Any) -> Any:
            return self._together(found, next(where)) if isinstance(found, Tensor) else found

        return tree_map(together, result)

    @staticmethod
    def _together(split: Tensor, dim: int | None) -> Tensor:
        """``[R, ...]`` with the recoveries back in the dimension that holds the batch."""
        assert dim is not None
        return split.movedim(0, dim).flatten(dim, dim + 1).contiguous()

    def _split(self, tensor: Tensor, dim: int | None) -> tuple[Tensor, int | None]:
        return (tensor, None) if dim is None else (tensor.unflatten(dim, (self.recoveries, -1)), dim)

    def _copies(self, bare: Bare, dim: int | None) -> tuple[Tensor, int]:
        """``[R, ...]`` of a bare tensor, with the batch of one recovery in its place, if it has one."""
        leaf = bare.plain.detach() if dim is None else bare.plain.movedim(dim, 0).detach()
        leaf.requires_grad_()
        copies = leaf.expand(self.recoveries, *leaf.shape) if dim is None else self._split(leaf, 0)[0]
        rows = None if dim is None else (dim, copies.shape[1])
        self.capture(OperandRule(SPREAD, {"spread": bare}, self.names, None, rows), copies.detach(), copies)
        return (copies, 0) if dim is None else (copies.movedim(1, dim + 1), 0)


def _plain(leaf: Any) -> Any:
    return leaf.plain if type(leaf) is Bare else leaf


def _name(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", repr(func))
    return name.strip("_") if name.startswith("__") else name


_CUT_OFF = frozenset({Tensor.detach, torch.detach, Tensor.data.__get__})  # pyright: ignore[reportAttributeAccessIssue]
"""What they give has no gradient."""


def _written_in_place(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """For an operator that writes to its first argument the one that does not; itself, if there is none."""
    name = getattr(func, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return getattr(Tensor, name[:-1], func)
    return func if name == "__setitem__" else None
