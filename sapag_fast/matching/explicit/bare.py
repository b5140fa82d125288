"""Parameters that no layer rule covers, and what a module computes of them alone.

In the private copy such a parameter is a `Bare`: PyTorch hands every operator on it to the network's
`Operators`, which see to it that each recovery gets a gradient of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["Bare", "Handler", "pull_back", "push_forward"]

Make = Callable[[Mapping[int, Tensor]], Tensor]
"""A tensor as a function of parameters by their position in the problem's list."""


class Handler(Protocol):
    """Who carries out the operators on bare parameters."""

    def handle(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """The result of ``func(*args, **kwargs)``, some of which are `Bare`."""
        ...


class Bare(Tensor):
    """A parameter, or a function of parameters, constants and nothing else.

    Attributes
    ----------
    plain : Tensor
        Its value.
    roots : dict of int to Tensor
        The parameters that it is made of, by position.
    make : callable
        Makes it of them.
    handler : Handler
    """

    plain: Tensor
    roots: dict[int, Tensor]
    make: Make
    handler: Handler

    @staticmethod
    def of(plain: Tensor, roots: dict[int, Tensor], make: Make, handler: Handler) -> Bare:
        """Mark a tensor."""
        bare = plain.as_subclass(Bare)
        bare.plain, bare.roots, bare.make, bare.handler = plain, roots, make, handler
        return bare

    @staticmethod
    def root(parameter: Tensor, index: int, handler: Handler) -> Bare:
        """A parameter itself."""
        plain = parameter.detach()
        return Bare.of(plain, {index: plain}, lambda values: values[index], handler)

    @property
    def is_root(self) -> bool:
        """Whether it is a parameter as it stands."""
        return len(self.roots) == 1 and next(iter(self.roots.values())) is self.plain

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            kwargs = kwargs or {}
            bare = next(leaf for leaf in tree_leaves((args, kwargs)) if type(leaf) is cls)
            handler = bare.handler
        return handler.handle(func, args, kwargs)


def pull_back(make: Make, roots: Mapping[int, Tensor], slopes: Tensor) -> dict[int, Tensor]:
    """Gradients toward ``make(roots)``, ``[R, ...]``, as gradients toward the roots."""

    def one(slope: Tensor) -> dict[int, Tensor]:
        return torch.func.vjp(make, dict(roots))[1](slope)[0]

    return torch.func.vmap(one)(slopes)


def push_forward(make: Make, roots: Mapping[int, Tensor], directions: Mapping[int, Tensor]) -> Tensor:
    """The derivative of `make` along directions ``[R, ...]`` of the roots.

    It is the transpose of `pull_back`, and so asks for nothing but backward passes.
    """
    like = make(roots)

    def one(along: dict[int, Tensor]) -> Tensor:
        pull = torch.func.vjp(make, dict(roots))[1]
        return torch.func.vjp(lambda slope: pull(slope)[0], torch.zeros_like(like))[1](along)[0]

    return torch.func.vmap(one)(dict(directions))
