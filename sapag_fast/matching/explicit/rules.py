"""What explicit mode has to know of a module: how its parameters' gradients are made, recovery by recovery.

They are functions of the module's input and of the gradient of its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.distances.kind import same_definition

__all__ = ["GradientFunction", "LayerCall", "NoRule", "NotCovered", "Rule", "find_rule", "register_rule"]

GradientFunction = Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class NotCovered(Exception):  # noqa: N818 (an answer, not an error)
    """Explicit mode does not apply; the message says why."""


class NoRule(NotCovered):
    """No layer rule: the operators on the module's parameters decide."""


class LayerCall(Generic[ModuleT]):
    """One call of a module in one evaluation.

    Parameters
    ----------
    module : nn.Module
        The layer.
    a, b : Tensor
        Its input and its output's gradient, ``[R, rows, ...]``, without their graph.
    wants_a, wants_b : bool
        Which products are asked for.
    """

    def __init__(self, module: ModuleT, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool) -> None:
        self.module: ModuleT = module
        self.a = a
        self.b = b
        self.wants_a = wants_a
        self.wants_b = wants_b
        self.scratch: dict[str, Tensor] = {}

    def reused(self, name: str, *shape: int) -> Tensor:
        """Memory for a large result of this call, the same at every evaluation.

        What is allocated anew each time costs more in page faults than in arithmetic. Holds whatever was
        written there last.
        """
        memory = self.scratch.get(name)
        if memory is None or memory.shape != shape:
            memory = self.scratch[name] = self.b.new_empty(shape)
        return memory

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The dummy gradients g'(a, b) of the named parameters, ``[R, *shape]`` in the rule's layout."""
        raise NotImplementedError

    def products(self, weights: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Derivatives of Σ <weights[name], g'_name(a, b)> with respect to a and b.

        Shaped like them; None where it is zero or was not asked for.
        """
        raise NotImplementedError

    def rows(self, name: str) -> tuple[Tensor, Tensor]:
        """A ``[R, N, K]`` and B ``[R, N, O]`` with g' = Bᵀ A, for a parameter in the rule's ``matrices``."""
        raise NotImplementedError

    def from_rows(
        self, toward_rows_a: Tensor | None, toward_rows_b: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Derivatives with respect to the rows, as derivatives with respect to a and b."""
        raise NotImplementedError


class Rule:
    """How one family of modules is handled; without state of its own.

    Attributes
    ----------
    name : str
        Shown in reports.
    matrices : frozenset of str
        Parameters whose gradient is Bᵀ A of rows: they can be matched without forming it.
    """

    name = "rule"
    matrices: frozenset[str] = frozenset()

    def refusal(self, module: nn.Module) -> str | None:
        """Why this module is not covered after all; None if it is."""
        return None

    def matrices_of(self, module: nn.Module) -> frozenset[str]:
        """`matrices`, where a module's settings decide."""
        return self.matrices

    def forward(
        self, module: nn.Module, original: Callable[..., Tensor], recoveries: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The module's output on a batch of all recoveries ``[R·rows, ...]``, and the ``a`` to capture."""
        given = (*args, *kwargs.values())
        if len(given) != 1 or not isinstance(given[0], Tensor):
            raise TypeError(f"model: {type(module).__name__} was called with more than one tensor")
        return original(*args, **kwargs), given[0]

    def call(self, module: nn.Module, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool) -> LayerCall:
        """The call that a and b belong to."""
        raise NotImplementedError

    def layout(self, name: str, gradient: Tensor) -> Tensor:
        """A gradient ``[R, *shape]`` of the named parameter in the order of elements that `LayerCall` uses.

        Distances do not care for that order.
        """
        return gradient

    def plain_layout(self, name: str, gradient: Tensor) -> Tensor:
        """The way back from `layout`."""
        return gradient

    @property
    def reorders(self) -> bool:
        """Whether `layout` does anything."""
        return type(self).layout is not Rule.layout


class _FunctionCall(LayerCall):
    """A call of a module that has only a function for its gradients: autograd gives the products."""

    def __init__(self, function: GradientFunction, *given: Any, **wants: bool) -> None:
        super().__init__(*given, **wants)
        self.wants_a = self.wants_a and self.a.is_floating_point()
        self.leaves = [
            t.detach().requires_grad_(wanted)
            for t, wanted in ((self.a, self.wants_a), (self.b, self.wants_b))
        ]
        with torch.enable_grad():
            self.formed = function(self.module, *self.leaves)

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        missing = [name for name in names if name not in self.formed]
        if missing:
            raise ValueError(
                f"rule: that of {type(self.module).__name__} gives no gradient for {', '.join(missing)}"
            )
        return {name: self.formed[name].detach() for name in names}

    def products(self, weights: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        outputs = [self.formed[name] for name in weights]
        wanted = [leaf for leaf in self.leaves if leaf.requires_grad]
        if not outputs or not wanted:
            return None, None
        toward = iter(
            torch.autograd.grad(outputs, wanted, list(weights.values()), allow_unused=True, retain_graph=True)
        )
        toward_a, toward_b = (next(toward) if leaf.requires_grad else None for leaf in self.leaves)
        return toward_a, toward_b


class _FunctionRule(Rule):
    """A rule made of a function from `register_rule`."""

    def __init__(self, function: GradientFunction) -> None:
        self.function = function
        self.name = getattr(function, "__name__", "function")

    def call(self, module: nn.Module, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool) -> LayerCall:
        return _FunctionCall(self.function, module, a, b, wants_a=wants_a, wants_b=wants_b)


_RULES: dict[type[nn.Module], Rule] = {}


def register_rule(
    module_type: type[nn.Module], rule: Rule | GradientFunction, *, replace: bool = False
) -> None:
    """Teach explicit mode a module of one's own that has parameters.

    Parameters
    ----------
    module_type : type
        The module's class, or a subclass that inherits its ``forward``. It must take one tensor and give one,
        both with the batch in front.
    rule : callable or Rule
        ``(module, a, b) -> {parameter name: gradient}``: from the inputs ``a [R, rows, ...]`` and the
        gradients of the loss with respect to the outputs ``b [R, rows, ...]`` of R independent recoveries the
        gradient of each of the module's own parameters, ``[R, *shape]``. Plain differentiable PyTorch that
        sums over the rows and never over R. A `Rule` may add faster products.
    replace : bool
        Take the place of another rule for the same class, one of the package's own too. The same function or
        class of rules, or one of the same module and qualified name, needs no leave: a notebook's cell can be
        run again.

    Raises
    ------
    TypeError
        For something else.
    ValueError
        If the class has another rule and `replace` is False.

    Examples
    --------
    >>> class Gain(torch.nn.Module):
    ...     def __init__(self, features):
    ...         super().__init__()
    ...         self.gain = torch.nn.Parameter(torch.ones(features))
    ...
    ...     def forward(self, x):
    ...         return self.gain * x.sin()
    >>> register_rule(Gain, lambda module, a, b: {"gain": (a.sin() * b).sum(1)})

    Whatever a rule says, the first recovery of an attack is evaluated with and without it; where they
    disagree, explicit mode is not used.
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise TypeError(f"module_type: expected a subclass of torch.nn.Module, found {module_type!r}")
    if not isinstance(rule, Rule):
        if not callable(rule):
            raise TypeError(f"rule: expected a function or a Rule, found {type(rule).__name__}")
        rule = _FunctionRule(rule)
    replace = check.check_flag("replace", replace)
    known = _RULES.get(module_type)
    if known is not None and not (replace or same_definition(_definition(known), _definition(rule))):
        raise ValueError(
            f"rule: {module_type.__name__} has another rule already ({known.name}); replace=True replaces it"
        )
    _RULES[module_type] = rule


def _definition(rule: Rule) -> object:
    """What was written down: a function, or the class of a rule."""
    return rule.function if isinstance(rule, _FunctionRule) else type(rule)


def find_rule(module: nn.Module) -> Rule:
    """The rule for `module`.

    Raises
    ------
    NoRule
        If there is none.
    NotCovered
        If there is one and it refuses the module; the message says why.
    """
    kind = type(module)
    for ancestor in kind.__mro__:
        if ancestor in _RULES:
            if kind.forward is not ancestor.forward:
                raise NoRule(f"{kind.__name__} has a forward of its own, unlike {ancestor.__name__}")
            refusal = _RULES[ancestor].refusal(module)
            if refusal is not None:
                raise NotCovered(refusal)
            return _RULES[ancestor]
    raise NoRule(f"no rule covers {kind.__name__}")
