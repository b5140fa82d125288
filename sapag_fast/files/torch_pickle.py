"""The pickle inside a file of `torch.save`, read without unpickling.

Its operations are looked at one by one. Those that build dictionaries, lists, words, numbers and tensors are
followed; everything else ends the reading. No name of the pickle is imported, nothing is called, and what a
tensor claims to be costs no memory: storages are read later, once their sizes have been checked.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import torch

__all__ = ["Described", "RefusedError", "Storage", "read_pickle"]

_MOST_OPERATIONS = 500_000  # a tensor takes about 40

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and not str(dtype).startswith(("torch.q", "torch.bits"))
}
_KINDS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has no numbers",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_njt": "a nested tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_wrapper_subclass": "a tensor of another class",
}
_REBUILDERS = (
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_from_type_v2",
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_VALUES = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
    | {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
)


class RefusedError(ValueError):
    """What the file holds is not read; the message says what it is."""


@dataclass(frozen=True)
class Storage:
    """Where a tensor's numbers are: `count` of `dtype` under `key`."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def nbytes(self) -> int:
        """As many as the file must hold."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Described:
    """A tensor of which no number has been read; it lies within its storage."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """A class, a function or another global of the pickle."""

    name: str
    storage: torch.dtype | None = None
    dtype: torch.dtype | None = None


_MARK = object()


def read_pickle(file: IO[bytes]) -> Any:
    """Follow one pickle; the file is left behind its end.

    Returns
    -------
    object
        Dictionaries, lists, tuples, words, numbers and `Described` tensors.

    Raises
    ------
    RefusedError
        For objects that are none of these.
    Exception
        Anything, for bytes that are no pickle.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if count > _MOST_OPERATIONS:
            raise RefusedError(f"its pickle has more than {_MOST_OPERATIONS} operations")
        name = operation.name
        if name == "STOP":
            return stack.pop()
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name not in ("PROTO", "FRAME"):
            _follow(name, argument, stack)
    raise EOFError("the pickle has no end")


def _follow(name: str, argument: Any, stack: list[Any]) -> None:
    """Do one operation that builds something."""
    if name in _VALUES:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
        stack.append(_EMPTY[name]())
    elif name == "MARK":
        stack.append(_MARK)
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif name in _TUPLES:
        stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
    elif name == "GLOBAL":
        stack.append(_name(*argument.split(" ", 1)))
    elif name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        stack.append(_name(module, attribute))
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_rebuilt(function, arguments))
    elif name == "BUILD":  # attributes, such as a state_dict's _metadata
        stack.pop()
    elif name in ("SETITEM", "SETITEMS"):
        items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _since_mark(stack)
        _set(stack[-1], items)
    elif name in ("APPEND", "APPENDS"):
        items = [stack.pop()] if name == "APPEND" else _since_mark(stack)
        _expect(list, stack[-1]).extend(items)
    else:
        raise RefusedError(f"Python objects ({name} in its pickle)")


def _since_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _set(target: Any, items: list[Any]) -> None:
    pairs: Iterator[Any] = iter(items)
    for key, value in zip(pairs, pairs, strict=True):
        if not isinstance(key, str | int):
            raise RefusedError(f"a dictionary with a {type(key).__name__} among its names")
        if key in _expect(dict, target):
            raise RefusedError(f"{key!r} twice")
        target[key] = value


def _name(module: str, name: str) -> _Name:
    """What a global of the pickle stands for, by its name alone."""
    if module in ("torch", "torch.storage") and name in _STORAGES:
        return _Name(name, storage=_STORAGES[name])
    if module == "torch" and name in _DTYPES:
        return _Name(name, dtype=_DTYPES[name])
    known = (
        ("collections", "OrderedDict"),
        ("torch", "Tensor"),
        ("torch", "Size"),
        ("torch._tensor", "Tensor"),
    )
    if (module, name) in known or (module in ("torch._utils", "torch._tensor") and name in _REBUILDERS):
        return _Name(name)
    if str(module).startswith("torch") and name in _KINDS:
        raise RefusedError(_KINDS[name])
    if str(module).startswith("torch") and str(name).startswith(("QInt", "QUInt")):
        raise RefusedError("a quantized tensor")
    raise RefusedError(f"Python objects ({module}.{name})")


def _storage(saved: Any) -> Storage:
    """A storage from what stands for it: ("storage", type, key, device, count[, view])."""
    word, kind, key, _, count, *view = _expect(tuple, saved)
    if word != "storage" or not isinstance(kind, _Name) or kind.storage is None or not isinstance(key, str):
        raise RefusedError(f"Python objects ({str(word)[:40]} outside its pickle)")
    if any(part is not None for part in view):
        raise RefusedError("a view of a storage, as torch saved it before 2018")
    return Storage(key, kind.storage, _size(count))


def _rebuilt(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, _Name) else None
    arguments = _expect(tuple, arguments)
    if name == "OrderedDict" and not arguments:
        return {}
    if name == "Size":
        return _expect(tuple, *arguments)
    if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return _expect(Described, arguments[0])
    if name == "_rebuild_from_type_v2":  # a tensor with attributes of its own
        rebuild, kind, own, _ = arguments
        if not isinstance(kind, _Name) or kind.name != "Tensor":
            raise RefusedError("a tensor of another class")
        return _rebuilt(rebuild, own)
    if name not in _REBUILDERS:
        raise RefusedError(f"Python objects (a call of {name or type(function).__name__})")
    storage, offset, shape, stride, *rest = arguments
    dtype, flags = _expect(Storage, storage).dtype, rest[2:]
    if name == "_rebuild_tensor_v3":
        dtype, *flags = (_expect(_Name, flags[0]).dtype, *flags[1:])
    if any(flags[:1]):
        raise RefusedError("a tensor that is still to be conjugated or negated")
    if dtype is None:
        raise RefusedError("a tensor without a type")
    return _described(storage, dtype, offset, shape, stride)


def _described(storage: Storage, dtype: torch.dtype, offset: Any, shape: Any, stride: Any) -> Described:
    sizes, steps = (tuple(map(_size, _expect(tuple, part))) for part in (shape, stride))
    last, elements = _size(offset), 1
    for size, step in zip(sizes, steps, strict=True):
        last, elements = last + (size - 1) * step, elements * size
    if elements and (last + 1) * dtype.itemsize > storage.nbytes:
        raise RefusedError(f"a tensor of shape {list(sizes)} beyond its storage of {storage.nbytes} bytes")
    if elements * dtype.itemsize >= 2**63:
        raise RefusedError(f"a tensor of shape {list(sizes)}, which no memory bears")
    return Described(storage, dtype, offset, sizes, steps)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise RefusedError(
            f"a tensor of which a size is {'too large' if type(value) is int else 'no number'}"
        )
    return value


def _expect(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__} in the pickle, found {type(value).__name__}")
    return value
