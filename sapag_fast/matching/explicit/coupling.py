"""Does a network keep the inputs of a batch apart? Batched together, recoveries must not see each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Coupled", "require_separate"]


class Coupled(Exception):  # noqa: N818 (an answer, not an error)
    """The network looks at its batch as a whole; the message says in which operator."""


_READS_VALUES = frozenset(
    {
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.equal.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten._unique2.default,
    }
)
"""Which way they go, or what shape they give, hangs on values."""


class _Shapes(TorchDispatchMode):
    """Notes the number of elements of everything that is computed from the inputs, operator by operator."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.alive = [inputs]  # an id is only good as long as its tensor lives
        self.derived = {id(inputs)}
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not any(id(leaf) in self.derived for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        if func in _READS_VALUES:
            raise Coupled(f"the model looks at its data ({func})")
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.alive.append(leaf)
                self.derived.add(id(leaf))
                self.seen.append((str(func), leaf.numel()))
        return result


def require_separate(run: Callable[[Tensor], object], inputs: Tensor) -> None:
    """Refuse a network that looks at its batch as a whole.

    Parameters
    ----------
    run : callable
        Takes ``[R, B, *input_shape]``.
    inputs : Tensor
        ``[R, B, *input_shape]``, of which the first recovery is used.

    Raises
    ------
    Coupled
        If anything is computed from the inputs that does not come once for each recovery: a mean over the
        batch, say. Two batches of different size are compared; what mixes recoveries without a change of
        shape (a softmax over the batch) does not show here.
    """
    seen = []
    for recoveries in (2, 3):
        batch = inputs[:1].expand(recoveries, *inputs.shape[1:]).detach().clone()
        with torch.no_grad(), _Shapes(batch) as shapes:
            run(batch)
        seen.append(shapes.seen)
    if len(seen[0]) != len(seen[1]):
        raise Coupled("the model computes otherwise for another batch size")
    for (name, two), (_, three) in zip(*seen, strict=True):
        if two * 3 != three * 2:
            raise Coupled(f"the model mixes the inputs of a batch ({name})")
