"""Checks of two lists of gradients against each other, for backends that have none of their own.

csrc/bindings.cpp makes them too; here they name devices and types before torch's dispatch can fail on a
mixture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sapag_fast import checks as check

_PLAIN = {Tensor, nn.Parameter}


def outputs(out: object, dummy: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of ``out`` that V is written to, one for each dummy gradient that is present.

    Raises
    ------
    TypeError, ValueError
        For what is no tensor, and another number of them.
    """
    given = check.check_tensors("out", out)
    present = [tensor for tensor in given if tensor is not None]
    for tensor in () if _PLAIN.issuperset(map(type, present)) else present:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"out: expected tensors and None, found {type(tensor).__name__}")
    if len(present) != len(dummy):
        raise ValueError(f"out: expected {len(dummy)} tensors, found {len(present)}")
    return present


def check_pairs(dummy: Sequence[Tensor | None], target: Sequence[Tensor | None], name: str = "dummy") -> None:
    """Raise unless both lists are equally long, with None at the same positions and at least one tensor.

    ``name`` is what errors call the first.

    Raises
    ------
    ValueError
        Otherwise, naming the list and the position.
    TypeError
        For what is neither a tensor nor None.
    """
    if len(dummy) != len(target):
        raise ValueError(
            f"dummy, target: expected the same number of gradients, found {len(dummy)} and {len(target)}"
        )
    for i, (mine, theirs) in enumerate(zip(dummy, target, strict=True)):
        if (mine is None) != (theirs is None):
            missing = "dummy" if mine is None else "target"
            raise ValueError(f"{missing}[{i}] is None but its partner is a tensor: None must come in pairs")
        for which, tensor in ((name, mine), ("target", theirs)):
            if tensor is not None and not isinstance(tensor, Tensor):
                raise TypeError(f"{which}[{i}]: expected a tensor or None, found {type(tensor).__name__}")
    if all(tensor is None for tensor in target):
        both = f"{name}, target" if dummy is not target else name
        raise ValueError(f"{both}: expected at least one tensor, found none")


def check_alike(
    dummy: Sequence[Tensor | None], target: Sequence[Tensor | None], batched: bool, name: str = "dummy"
) -> None:
    """Check devices, types, recoveries and shapes of lists that `check_pairs` has passed.

    Raises
    ------
    TypeError
        For types that differ or are not floating point.
    ValueError
        For all else that does not fit together, naming the tensor.
    """
    pairs = [
        (i, mine, theirs)
        for i, (mine, theirs) in enumerate(zip(dummy, target, strict=True))
        if mine is not None and theirs is not None
    ]
    index, first, first_target = pairs[0]
    if not first.is_floating_point():
        raise TypeError(
            f"{name}[{index}]: expected float32, float64, bfloat16 or float16, found {first.dtype}"
        )
    lead = 1 if batched else 0
    for i, mine, theirs in pairs:
        _check_tensor(f"{name}[{i}]", mine, first, batched)
        _check_tensor(f"target[{i}]", theirs, first, batched)
        if batched:
            _check_recoveries(i, mine, theirs, (first.shape[0], first_target.shape[0]), name)
        if mine.shape[lead:] != theirs.shape[lead:]:
            raise ValueError(
                f"target[{i}]: expected shape {tuple(mine.shape)} as dummy[{i}], found {tuple(theirs.shape)}"
            )


def _check_tensor(name: str, tensor: Tensor, first: Tensor, batched: bool) -> None:
    if tensor.layout is not torch.strided or tensor.is_nested:
        found = "a nested one" if tensor.is_nested else f"{tensor.layout}; to_dense() makes one"
        raise TypeError(f"{name}: expected a dense tensor, found {found}")
    if tensor.device != first.device:
        raise ValueError(f"{name}: expected a tensor on {first.device} as the first, found {tensor.device}")
    if tensor.dtype != first.dtype:
        raise TypeError(f"{name}: expected {first.dtype} as in the first tensor, found {tensor.dtype}")
    if batched and tensor.dim() == 0:
        raise ValueError(f"{name}: batched=True needs a leading recoveries' dimension, found shape ()")


def _check_recoveries(i: int, mine: Tensor, theirs: Tensor, expected: tuple[int, int], name: str) -> None:
    recoveries, target_recoveries = expected
    if mine.shape[0] != recoveries:
        raise ValueError(
            f"{name}[{i}]: expected {recoveries} recoveries in front, found shape {tuple(mine.shape)}"
        )
    if theirs.shape[0] != target_recoveries:
        raise ValueError(
            f"target[{i}]: expected {target_recoveries} recoveries in front as in the first, "
            f"found shape {tuple(theirs.shape)}"
        )
    if theirs.shape[0] not in (1, recoveries):
        raise ValueError(
            f"target[{i}]: expected {recoveries} recoveries in front (or 1, shared by all), "
            f"found shape {tuple(theirs.shape)}"
        )


def check_apart(
    out: Sequence[Tensor],
    dummy: Sequence[Tensor],
    target: Sequence[Tensor],
    positions: Sequence[int],
    *,
    in_place: bool,
) -> None:
    """Raise unless each output lies in memory that nothing else reads or writes.

    Parameters
    ----------
    out, dummy, target : sequence of Tensor
        Those that are present.
    positions : sequence of int
        Theirs among all.
    in_place : bool
        An output may be exactly its partner in ``dummy``.

    Raises
    ------
    ValueError
        Naming both tensors.
    """
    spans = []
    for i, mine, read, constant in zip(positions, out, dummy, target, strict=True):
        repeats = any(s == 0 and n > 1 for n, s in zip(mine.shape, mine.stride(), strict=True))
        if repeats and mine.stride() != read.stride():
            raise ValueError(f"out[{i}]: expected memory of its own for each element, found stride 0")
        spans.append((*_span(mine), True, f"out[{i}]"))
        spans.append((*_span(constant), False, f"target[{i}]"))
        if not (in_place and _is_exactly(mine, read)):
            spans.append((*_span(read), False, f"dummy[{i}]"))
    spans = sorted(span for span in spans if span[0] < span[1])
    reached = {True: (0, ""), False: (0, "")}  # by what is written to, and by what is read
    for begin, end, written, name in spans:
        for end_before, before in (reached[True], reached[False] if written else (0, "")):
            if begin < end_before:
                mine, other = (name, before) if written else (before, name)
                allowed = f" or exactly that of dummy{mine[3:]}" if in_place else ""
                raise ValueError(f"{mine}: expected memory of its own{allowed}, found memory of {other}")
        reached[written] = max(reached[written], (end, name))


def _is_exactly(tensor: Tensor, other: Tensor) -> bool:
    return (
        tensor.data_ptr() == other.data_ptr()
        and tensor.shape == other.shape
        and tensor.stride() == other.stride()
    )


def _span(tensor: Tensor) -> tuple[int, int]:
    """Addresses of the first byte and the one after the last."""
    if not tensor.numel():
        return 0, 0
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    return begin, begin + (last + 1) * tensor.element_size()


def same_positions(dummy: Sequence[object], target: Sequence[Tensor | None]) -> bool:
    """Whether both lists have tensors, and None, at the same positions."""
    if len(dummy) != len(target):
        return False
    if _PLAIN.issuperset(map(type, dummy)):
        return type(None) not in map(type, target)
    return all(
        isinstance(mine, Tensor) if theirs is not None else mine is None
        for mine, theirs in zip(dummy, target, strict=True)
    )
