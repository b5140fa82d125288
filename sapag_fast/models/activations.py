"""Activations as an option: by name, as a module, or as a function that the network calls."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import cast

from torch import Tensor, nn

from sapag_fast import checks as check

__all__ = ["ACTIVATIONS", "Activation", "FunctionalActivation", "make_activation"]

Activation = str | type[nn.Module] | nn.Module | Callable[[Tensor], Tensor]
"""What the networks here take as ``activation``."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}
"""Activations that have a name."""


class FunctionalActivation(nn.Module):
    """Calls a function, as networks do that have ``F.relu`` in their forward.

    Tools that look for activation modules see none.

    Parameters
    ----------
    function : callable
        Of one tensor.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        return self.function(x)

    def extra_repr(self) -> str:
        """The function's name, and what a ``functools.partial`` binds; never an address."""
        function, bound = self.function, ""
        if isinstance(function, partial):
            given = [*map(repr, function.args), *(f"{k}={v!r}" for k, v in function.keywords.items())]
            function, bound = function.func, f"({', '.join(given)})"
        return getattr(function, "__qualname__", type(function).__qualname__) + bound


def make_activation(activation: Activation) -> nn.Module:
    """Make a module of its own for every place in a network.

    Parameters
    ----------
    activation : str, module class, module or function
        A name in `ACTIVATIONS`; a class such as ``nn.ReLU``, also with settings as a
        ``functools.partial(nn.Softplus, beta=10)``; a module, which is copied; or a function of one tensor,
        such as ``F.relu``, which is called as it is.

    Returns
    -------
    nn.Module
        A new one.

    Raises
    ------
    ValueError
        For an unknown name.
    TypeError
        For anything else.
    """
    if isinstance(activation, str):
        return ACTIVATIONS[check.check_choice("activation", activation, ACTIVATIONS)]()
    if isinstance(activation, nn.Module):
        return copy.deepcopy(activation)
    made = activation.func if isinstance(activation, partial) else activation
    if isinstance(made, type) and issubclass(made, nn.Module):
        try:
            return cast(Callable[[], nn.Module], activation)()
        except TypeError as error:
            raise TypeError(f"activation: expected a class that needs no arguments: {error}") from None
    if callable(activation) and not isinstance(activation, type):
        return FunctionalActivation(activation)
    raise TypeError(
        "activation: expected a name, a torch.nn.Module, its class or a function of a tensor, "
        f"found {activation!r}"
    )
