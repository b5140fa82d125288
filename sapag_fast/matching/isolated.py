"""Searches that leave no trace in one another's bits: what a row comes to follows from that row alone.

Victims that are matched in different ways are evaluated apart, so that no victim's way follows from another's
gradient. On a CPU an operator's last elements, and products of few rows, take other instructions than the
rest: every evaluation therefore gets as many rows as leave none over, the first one again for each that is
missing. How many that is follows from the network's sizes alone (`quantum_of`). Of large networks, of which
a row more costs as much as the first, every row is evaluated on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sapag_fast.matching.base import Matching, StageHook

__all__ = ["ApartMatching", "IsolatedMatching", "Quantum", "confirmed", "quantum_of"]

_VECTORS = {"AVX512": 128, "AVX2": 64}
"""Bytes that an element-wise operator takes at once, two vectors, by what the CPU is able to."""
_PRODUCT_ROWS = 4
"""Rows from which on a product of matrices takes the same instructions however many there are."""
_MANY_IMAGES = 16
"""Images that no library was seen to treat otherwise than more of them."""
# fmt: off
_EXACT = frozenset({
    "_to_copy", "abs", "add", "clamp", "clamp_max", "clamp_min", "clone", "copy", "div", "eq", "fill", "ge",
    "gt", "isfinite", "le", "lt", "maximum", "minimum", "mul", "ne", "neg", "reciprocal", "relu", "rsqrt",
    "rsub", "sign", "sqrt", "square", "sub", "threshold", "threshold_backward", "where", "zero",
})
# fmt: on
"""Operators that round each of their steps correctly, or not at all: vector or not makes no difference."""
_EXACT_POWERS = (-2, -1, -0.5, 0.5, 2, 3)
"""Exponents that are products, roots and quotients."""
_PRODUCTS = ("mm", "addmm")


class Quantum(NamedTuple):
    """Rows of an evaluation: a multiple of `multiple`, and at least `least`."""

    multiple: int = 1
    least: int = 1

    def of(self, rows: int) -> int:
        """The number of rows for so many, the next that fits."""
        return -(-max(rows, self.least) // self.multiple) * self.multiple


class _Sizes(TorchDispatchMode):
    """Notes which numbers of rows the operators that run inside would leave something over at."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows, self.multiple, self.least = rows, 1, 1
        self.bytes = _VECTORS.get(torch.backends.cpu.get_cpu_capability(), 64)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _PRODUCTS and result.shape[0] % self.rows == 0:
            self.least = max(self.least, -(-_PRODUCT_ROWS * self.rows // max(result.shape[0], 1)))
        elif torch.Tag.pointwise in func.tags and not _is_exact(name.removesuffix("_"), args):
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() % self.rows == 0:
                    each = leaf.numel() // self.rows * leaf.element_size()
                    self.multiple = math.lcm(self.multiple, self.bytes // math.gcd(self.bytes, each))
        return result


def _is_exact(name: str, args: tuple) -> bool:
    return name in _EXACT or (name == "pow" and isinstance(args[1], int | float) and args[1] in _EXACT_POWERS)


def quantum_of(evaluate: Callable[[], object], rows: int, device: torch.device) -> Quantum:
    """Find by one evaluation of `rows` rows how many an evaluation should have; any number on a GPU."""
    if device.type != "cpu":
        return Quantum()
    with _Sizes(rows) as sizes:
        evaluate()
    return Quantum(sizes.multiple, sizes.least)


def confirmed(matching: Matching, given: tuple[Tensor, Tensor, Tensor | None], quantum: Quantum) -> Quantum:
    """The quantum, made larger until an evaluation of few rows and one of many have the same bits.

    Products and convolutions of few images may take other instructions than those of many; which do is the
    libraries' business, and differs by CPU. It is tried on one input, in every row of both evaluations.

    Parameters
    ----------
    matching : Matching
    given : tuple
        Inputs, labels and sharpness of an evaluation; those of its first row are taken.
    quantum : Quantum
        That leaves nothing over.
    """
    inputs = given[0]
    if inputs.device.type != "cpu":
        return quantum
    many = -(-_MANY_IMAGES // inputs.shape[1])

    def bits(rows: int) -> list[Tensor]:
        matching.retarget(torch.zeros(rows, dtype=torch.long))
        first = (None if t is None else t[:1].repeat(rows, *[1] * (t.dim() - 1)) for t in given)
        found = [t for t in matching.value_and_gradient(*first) if t is not None]  # type: ignore[arg-type]
        return [t.clone() for t in found]

    def alike(tried: Quantum) -> bool:
        few, lots = bits(tried.of(1)), bits(tried.of(many + 1))
        return all(torch.equal(b, a[:1].expand_as(b)) for a, b in zip(few, lots, strict=True))

    larger = (
        quantum,
        Quantum(quantum.multiple, max(quantum.least, many)),
        Quantum(math.lcm(quantum.multiple, many), max(quantum.least, many)),
    )
    return next((tried for tried in larger[:-1] if alike(tried)), larger[-1])


class _Part(NamedTuple):
    """Rows of one way: those of the batch, and with others that fill up."""

    matching: Matching
    own: Tensor
    filled: Tensor


class IsolatedMatching:
    """Each way's victims apart, in evaluations that leave nothing over.

    Parameters
    ----------
    ways : sequence of Matching
        Each for the victims of its own, numbered from 0 on.
    victims : sequence of sequence of int
        Which those are.
    quantum : Quantum
        Rows of an evaluation.

    Attributes
    ----------
    mode : str
    stages : callable or None
        As of `Matching`.
    """

    def __init__(self, ways: Sequence[Matching], victims: Sequence[Sequence[int]], quantum: Quantum) -> None:
        self.ways, self.quantum = list(ways), quantum
        self.mode = ways[0].mode
        self.place = {
            victim: (way, number)
            for way, members in enumerate(victims)
            for number, victim in enumerate(members)
        }
        self.parts: list[_Part] = []

    @property
    def stages(self) -> StageHook | None:
        """Who is told of stages, as of `Matching`."""
        return self.ways[0].stages

    @stages.setter
    def stages(self, stages: StageHook | None) -> None:
        for way in self.ways:
            way.stages = stages

    def retarget(self, victims: Tensor, widths: Tensor | None = None) -> None:
        """From now on row r searches victim ``victims[r]``, as `Matching` says; R may change."""
        places = [self.place[victim] for victim in victims.tolist()]
        self.parts = []
        for way, matching in enumerate(self.ways):
            own = [row for row, (its, _) in enumerate(places) if its == way]
            if own:
                filled = own + own[:1] * (self.quantum.of(len(own)) - len(own))
                numbers = [places[row][1] for row in filled]
                of_way = torch.tensor(numbers, device=victims.device)
                if widths is None:
                    matching.retarget(of_way)
                else:
                    matching.retarget(of_way, widths[filled])
                at = (torch.tensor(rows, device=victims.device) for rows in (own, filled))
                self.parts.append(_Part(matching, *at))
        self.whole = len(self.parts) == 1 and len(self.parts[0].filled) == len(places)

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate once, as `Matching` says."""
        if self.whole:
            return self.parts[0].matching.value_and_gradient(inputs, labels, sharpness)
        results: list[Tensor | None] = [None, None, None]
        for part in self.parts:
            sharp = None if sharpness is None else sharpness[part.filled]
            of_way = part.matching.value_and_gradient(inputs[part.filled], labels[part.filled], sharp)
            for number, found in enumerate(of_way):
                if found is None:
                    continue
                if (result := results[number]) is None:
                    result = results[number] = found.new_empty(len(inputs), *found.shape[1:])
                result[part.own] = found[: len(part.own)]
        return results[0], results[1], results[2]  # type: ignore[return-value] (there are rows)


class ApartMatching:
    """Every row in an evaluation of its own, for networks of which one row is work enough.

    Nothing is filled up, and an evaluation takes the memory of one row, however many there are.

    Parameters
    ----------
    of_victim : callable
        Makes a victim's own matching, of a problem that has no other.
    mode : str
        Those matchings' mode.

    Attributes
    ----------
    mode : str
    stages : callable or None
        As of `Matching`.
    """

    def __init__(self, of_victim: Callable[[int], Matching], mode: str) -> None:
        self.of_victim, self.mode = of_victim, mode
        self.stages: StageHook | None = None
        self.own: dict[int, Matching] = {}

    def retarget(self, victims: Tensor, widths: Tensor | None = None) -> None:
        """From now on row r searches victim ``victims[r]``, as `Matching` says; R may change."""
        self.victims, self.widths = victims.tolist(), widths
        first = torch.zeros(1, dtype=torch.long, device=victims.device)
        self.own = {victim: own for victim, own in self.own.items() if victim in self.victims}
        for victim in self.victims:
            if victim not in self.own:
                self.own[victim] = self.of_victim(victim)
            self.own[victim].retarget(first)
        self.first = first

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate once, as `Matching` says, one row after the other."""
        results = []
        for row, victim in enumerate(self.victims):
            matching, own = self.own[victim], slice(row, row + 1)
            matching.stages = self.stages
            if self.widths is not None:
                matching.retarget(self.first, self.widths[own])
            sharp = None if sharpness is None else sharpness[own]
            results.append(matching.value_and_gradient(inputs[own], labels[own], sharp))
        values, toward_inputs, toward_labels = zip(*results, strict=True)
        joint = toward_labels[0] is not None
        return torch.cat(values), torch.cat(toward_inputs), torch.cat(toward_labels) if joint else None
