"""The two lists of gradients that tools compare, checked by the names that the tool gives them."""

from __future__ import annotations

from torch import Tensor

from sapag_fast import checks as check

__all__ = ["both_lists"]


def both_lists(
    name: str, dummy: object, other: str, target: object
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Both as lists of their own, equally long, of tensors and None; errors call them `name` and `other`.

    Raises
    ------
    TypeError
        For one tensor in place of a sequence, a mapping, and entries that are neither tensors nor None.
    ValueError
        For lists of different length.
    """
    mine, given = check.check_tensors(name, dummy), check.check_tensors(other, target)
    if len(mine) != len(given):
        raise ValueError(f"{name}: expected {len(given)} gradients as in {other}, found {len(mine)}")
    for which, entries in ((name, mine), (other, given)):
        for position, entry in enumerate(entries):
            if entry is not None and not isinstance(entry, Tensor):
                found = type(entry).__name__
                raise TypeError(f"{which}[{position}]: expected a tensor or None, found {found}")
    return mine, given
