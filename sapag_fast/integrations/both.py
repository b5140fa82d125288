"""The two lists of gradients that tools compare, checked by the names that the tool gives them."""

from __future__ import annotations

from torch import Tensor, nn

from sapag_fast import checks as check

__all__ = ["both_lists"]

_PLAIN = {Tensor, nn.Parameter}


def both_lists(
    name: str, dummy: object, other: str, target: object, *, in_pairs: bool = True
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Both as lists of their own, equally long, of tensors and None; errors call them `name` and `other`.

    With `in_pairs` None must stand at the same positions of both.

    Raises
    ------
    TypeError
        For one tensor in place of a sequence, a mapping, and entries that are neither tensors nor None.
    ValueError
        For lists of different length, and for None without a partner.
    """
    mine, given = check.check_tensors(name, dummy), check.check_tensors(other, target)
    if len(mine) != len(given):
        raise ValueError(f"{name}: expected {len(given)} gradients as in {other}, found {len(mine)}")
    if _PLAIN.issuperset(map(type, mine)) and _PLAIN.issuperset(map(type, given)):
        return mine, given
    for which, entries in ((name, mine), (other, given)):
        for position, entry in enumerate(entries):
            if entry is not None and not isinstance(entry, Tensor):
                found = type(entry).__name__
                raise TypeError(f"{which}[{position}]: expected a tensor or None, found {found}")
    for position, pair in enumerate(zip(mine, given, strict=True) if in_pairs else ()):
        if (pair[0] is None) != (pair[1] is None):
            lone, there = (name, other) if pair[0] is None else (other, name)
            raise ValueError(
                f"{lone}[{position}] is None but {there}[{position}] is a tensor: None must come in pairs"
            )
    return mine, given
