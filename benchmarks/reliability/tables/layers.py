"""Which tensors form a layer, by the rule of the documents, written anew."""

from __future__ import annotations

from collections.abc import Sequence


def layer_numbers(
    shapes: Sequence[tuple[int, ...] | None], merge_bias: bool, layers: Sequence[int] | None
) -> tuple[list[int], int]:
    """The layer of every tensor that is present, and how many layers there are.

    A vector right behind a tensor of as many rows is that tensor's bias; one for each, and no scalar has any.
    """
    if layers is not None:
        numbers = [number for number, shape in zip(layers, shapes, strict=True) if shape is not None]
        return numbers, max(numbers) + 1
    numbers: list[int] = []
    last = -1
    for position, shape in enumerate(shapes):
        if shape is None:
            continue
        before = shapes[position - 1] if position else None
        is_bias = (
            merge_bias
            and before is not None
            and len(before) > 0
            and len(shape) == 1
            and before[0] == shape[0]
            and not _took(numbers)
        )
        if not is_bias:
            last += 1
        numbers.append(last)
    return numbers, last + 1


def _took(numbers: Sequence[int]) -> bool:
    """Whether the newest layer has its bias already."""
    return len(numbers) > 1 and numbers[-1] == numbers[-2]
