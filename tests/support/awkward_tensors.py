"""Lists of gradients that lie in memory in every way that torch allows, some without any elements."""

import torch
from torch import Tensor


def _noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def _expanded(generator: torch.Generator) -> Tensor:
    return _noise(generator, 5, 1).expand(5, 4)


def _overlapping(generator: torch.Generator) -> Tensor:
    return _noise(generator, 9).as_strided((6, 4), (1, 1))


def _transposed(generator: torch.Generator) -> Tensor:
    return _noise(generator, 7, 3).T


def _every_other(generator: torch.Generator) -> Tensor:
    return _noise(generator, 9)[1::2]


def _gap(generator: torch.Generator) -> Tensor:
    return _noise(generator, 3, 8)[:, 2:5]


WAYS = {
    "plain": lambda generator: _noise(generator, 3, 5),
    "vector": lambda generator: _noise(generator, 6),
    "scalar": lambda generator: _noise(generator),
    "one": lambda generator: _noise(generator, 1, 1),
    "none": lambda generator: _noise(generator, 0),
    "no rows": lambda generator: _noise(generator, 0, 3),
    "no columns": lambda generator: _noise(generator, 4, 0),
    "expanded": _expanded,
    "overlapping": _overlapping,
    "transposed": _transposed,
    "every other": _every_other,
    "gap": _gap,
    "flat": lambda generator: _noise(generator, 1).expand(8),
}
EMPTY = ("none", "no rows", "no columns")


def awkward_pair(ways: list[str], seed: int, *, alike: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    """Dummy and target gradients, one pair for each way.

    Parameters
    ----------
    ways : list of str
        Keys of `WAYS`.
    seed : int
        Of all numbers.
    alike : bool
        Both of a pair lie in the same way; else the target is contiguous.
    """
    generator = torch.Generator().manual_seed(seed)
    dummy = [WAYS[way](generator) for way in ways]
    target = [WAYS[way](generator) for way in ways]
    return dummy, target if alike else [t.contiguous() for t in target]
