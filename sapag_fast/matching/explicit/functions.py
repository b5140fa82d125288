"""Functions that are layers: linear maps and convolutions whose weights are no layer's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from sapag_fast.matching.explicit.bare import Bare
from sapag_fast.matching.explicit.convolution import ConvolutionRule
from sapag_fast.matching.explicit.linear import LinearCall, LinearRule
from sapag_fast.matching.explicit.rules import LayerCall, Rule

__all__ = ["Known", "known_function"]


@dataclass(frozen=True)
class Known:
    """A call of a function that is a layer.

    Attributes
    ----------
    function : callable
        Of `x` with its batch in front.
    x : Tensor
        The input.
    batch : int
        Its dimension that holds the batch; of the output too.
    rule : Rule
    operands : dict of str to Bare
        By the rule's names of a layer's parameters.
    layer : object
        What the rule's calls read sizes from.
    """

    function: Callable[[Tensor], Tensor]
    x: Tensor
    batch: int
    rule: Rule
    operands: Mapping[str, Bare]
    layer: Any


class _TransposedCall(LinearCall):
    """Of y = x W, whose weight is ``[K, O]``: g'_W = Aᵀ B."""

    def rows(self, name: str) -> tuple[Tensor, Tensor]:
        """B and A: the other way round."""
        return self.b.flatten(1, -2), self.a.flatten(1, -2)

    def gradients(self, names: Any) -> dict[str, Tensor]:
        """Aᵀ B and Σ b."""
        rows_b, rows_a = self.rows("weight")
        found = {}
        for name in names:
            if name == "bias":
                found[name] = rows_b.sum(1)
            else:
                memory = self.reused(name, rows_a.shape[0], rows_a.shape[2], rows_b.shape[2])
                found[name] = torch.bmm(rows_a.transpose(1, 2), rows_b, out=memory)
        return found

    def products(self, weights: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Those of the transposed weight."""
        if "weight" in weights:
            weights = {**weights, "weight": weights["weight"].transpose(1, 2)}
        a, b = self.a, self.b
        straight = LinearCall(self.module, a, b, wants_a=self.wants_a, wants_b=self.wants_b)
        return straight.products(weights)

    def from_rows(
        self, toward_rows_a: Tensor | None, toward_rows_b: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The other way round, too."""
        return super().from_rows(toward_rows_b, toward_rows_a)


class _TransposedRule(LinearRule):
    name = "transposed-linear"

    def call(self, module: Any, a: Tensor, b: Tensor, *, wants_a: bool, wants_b: bool) -> LayerCall:
        return _TransposedCall(module, a, b, wants_a=wants_a, wants_b=wants_b)


_LINEAR, _TRANSPOSED, _CONVOLUTION = LinearRule(), _TransposedRule(), ConvolutionRule()


@dataclass(frozen=True)
class _Convolution:
    """What the calls of a convolution read."""

    weight: Tensor
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str = "zeros"


def known_function(
    func: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any], dims: Sequence[int | None]
) -> Known | None:
    """The call as a layer's, if it is one of bare parameters on a plain input.

    Parameters
    ----------
    func : callable
    args, kwargs
        What it is called with.
    dims : sequence of int or None
        Of the tensors in there the dimension that holds the batch.
    """
    read = _READERS.get(func)
    call = None if read is None else read(*args, **kwargs)
    if call is None:
        return None
    tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
    batches = {id(tensor): dim for tensor, dim in zip(tensors, dims, strict=True)}
    parameters = {name: p for name, p in call.parameters.items() if p is not None}
    batch = batches[id(call.x)]
    last = call.x.dim() - call.features
    if type(call.x) is Bare or batch is None or batch >= last or call.x.dim() < 2:
        return None
    if any(
        batches[id(p)] is not None or (type(p) is not Bare and p.requires_grad) for p in parameters.values()
    ):
        return None
    plain = {name: p.plain if type(p) is Bare else p for name, p in parameters.items()}
    operands = {name: p for name, p in parameters.items() if type(p) is Bare}
    return Known(
        lambda x: call.function(x, plain["weight"], plain.get("bias")),
        call.x,
        batch,
        call.rule,
        operands,
        call.layer,
    )


@dataclass(frozen=True)
class _Call:
    """A call, read: ``function(x, weight, bias)``, where the last `features` dimensions of x are no batch."""

    function: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    x: Tensor
    parameters: dict[str, Tensor | None]
    rule: Rule
    features: int = 1
    layer: Any = None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Call | None:  # noqa: A002
    if weight.dim() != 2:
        return None
    return _Call(F.linear, input, {"weight": weight, "bias": bias}, _LINEAR, layer=weight)


def _addmm(
    input: Tensor,  # noqa: A002
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> _Call | None:
    if beta != 1 or alpha != 1 or input.dim() != 1:
        return None
    return _Call(_transposed, mat1, {"weight": mat2, "bias": input}, _TRANSPOSED, layer=mat2)


def _matmul(input: Tensor, other: Tensor) -> _Call | None:  # noqa: A002
    return (
        _Call(_transposed, input, {"weight": other}, _TRANSPOSED, layer=other) if other.dim() == 2 else None
    )


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight.t(), bias)


def _convolution(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> _Call | None:
    axes = weight.dim() - 2
    if isinstance(padding, str) or input.dim() != weight.dim():
        return None

    def each(size: int | Sequence[int]) -> tuple[int, ...]:
        sizes = (size,) if isinstance(size, int) else tuple(size)
        return sizes * axes if len(sizes) == 1 else sizes

    plain = weight.plain if type(weight) is Bare else weight
    sizes = each(stride), each(padding), each(dilation)
    layer = _Convolution(plain, tuple(plain.shape[2:]), *sizes, groups)
    convolve = F.conv1d if axes == 1 else F.conv2d
    return _Call(
        lambda x, weight, bias: convolve(x, weight, bias, *sizes, groups),
        input,
        {"weight": weight, "bias": bias},
        _CONVOLUTION,
        features=axes + 1,
        layer=layer,
    )


_READERS: dict[Callable[..., Any], Callable[..., _Call | None]] = {
    F.linear: _linear,
    torch.addmm: _addmm,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    Tensor.mm: _matmul,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
}
