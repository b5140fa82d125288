"""Operations and bytes of what runs, counted operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = ["CACHED", "Work", "WorkCounter"]

CACHED = {"cpu": 2**20}
"""By type of device, bytes of operands up to which an operator may find them in cache: about a core's second
level. Elsewhere all bytes come from memory."""
KeyT = TypeVar("KeyT", bound=Hashable)
_ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_")


@dataclass(frozen=True)
class Work:
    """What operators do.

    Attributes
    ----------
    flops : int
        Of matrix products and convolutions; a multiplication and an addition are two.
    memory_bytes, cache_bytes : int
        Of all operators' operands, each read or written once: from memory, or from cache where all of an
        operator's operands fit into it.
    """

    flops: int = 0
    memory_bytes: int = 0
    cache_bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.memory_bytes + other.memory_bytes,
            self.cache_bytes + other.cache_bytes,
        )

    @property
    def bytes(self) -> int:
        """From wherever."""
        return self.memory_bytes + self.cache_bytes


class WorkCounter(TorchDispatchMode, Generic[KeyT]):
    """Counts what runs inside it, under the key that `key` gives at that moment.

    Views and allocations move nothing; an operator that works in place reads and writes its tensor. Fused
    operators of this package move their operands once and count no FLOPs: they are bound by memory.

    Parameters
    ----------
    key : callable
        Takes nothing; its value must be hashable.

    Attributes
    ----------
    counted : dict
        `Work` by key.
    """

    def __init__(self, key: Callable[[], KeyT]) -> None:
        super().__init__()
        self._key = key
        self.counted: dict[KeyT, Work] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        key = self._key()
        self.counted[key] = self.counted.get(key, Work()) + _work(func, args, kwargs, result)
        return result


def _work(func: Any, args: tuple, kwargs: dict, result: Any) -> Work:
    formula = flop_registry.get(func.overloadpacket)
    flops = 0 if formula is None else int(formula(*args, **kwargs, out_val=result))
    if _moves_nothing(func):
        return Work(flops)
    tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
    moved = sum(map(_bytes, tensors))
    limit = CACHED.get(tensors[0].device.type, 0) if tensors else 0
    return Work(flops, 0, moved) if moved <= limit else Work(flops, moved, 0)


def _moves_nothing(func: Any) -> bool:
    views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    return views or func.overloadpacket.__name__ in _ALLOCATIONS


def _bytes(tensor: Tensor) -> int:
    """Of the elements, one that is repeated by a stride of 0 counted once."""
    distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= size if stride else min(size, 1)
    return distinct * tensor.element_size()
