"""Ways to ask the package for D and V of a table; all have to give the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sapag_fast as sf
from benchmarks.reliability.tables.draw import Table

MANNERS = ("plain", "value", "kept", "another target before", "written target", "out", "autograd")
SHARES = (0.35, 0.2, 0.1, 0.05, 0.05, 0.05, 0.2)


@dataclass
class Answer:
    """D, and V of the tensors that are present; ``factor`` ``[R]``: D's gradient, given."""

    value: Tensor
    slopes: list[Tensor] | None
    factor: np.ndarray | None = None


def ask(table: Table, kind: str, options: dict[str, Any], manner: str, rng: np.random.Generator) -> Answer:
    """Call the package in one of `MANNERS`; ``options`` name the backend."""
    options = table.layering_of(kind) | options
    distance = sf.GradientDistance(kind, batched=table.batched, **options)
    dummy, target = table.dummy, table.target
    match manner:
        case "plain":
            value, slopes = sf.distance_and_gradient(dummy, target, kind, batched=table.batched, **options)
        case "value":
            return Answer(distance(iter(dummy), tuple(target)), None)
        case "kept":
            distance(dummy, target)
            value, slopes = distance.distance_and_gradient(dummy, target)
        case "another target before":
            distance.distance_and_gradient(dummy, [None if t is None else t + 1 for t in target])
            value, slopes = distance.distance_and_gradient(dummy, target)
        case "written target":
            copies = [None if t is None else torch.zeros(t.shape, dtype=t.dtype) for t in target]
            distance(dummy, copies)
            for copy, t in zip(copies, target, strict=True):
                if copy is not None and t is not None:
                    copy.copy_(t)
            value, slopes = distance.distance_and_gradient(dummy, copies)
        case "out":
            out = [None if t is None else torch.full(t.shape, torch.nan, dtype=t.dtype) for t in dummy]
            try:
                value, slopes = distance.distance_and_gradient(dummy, target, out)
            except ValueError as error:
                if "must lie in memory as dummy does" not in str(error):
                    raise
                out = list(distance.distance_and_gradient(dummy, target)[1])
                value, slopes = distance.distance_and_gradient(dummy, target, out)
            for given, found in zip(out, slopes, strict=True):
                if given is not None and given is not found:
                    raise AssertionError("out: V is in other tensors than those that were given")
        case _:
            return _by_autograd(distance, table, rng)
    return Answer(value, [t for t in slopes if t is not None])


def _by_autograd(distance: sf.GradientDistance, table: Table, rng: np.random.Generator) -> Answer:
    leaves = [None if t is None else t.detach().requires_grad_() for t in table.dummy]
    value = distance(leaves, table.target)
    factor = np.ones(value.numel()) if rng.random() < 0.5 else np.exp2(rng.integers(-3, 4, value.numel()))
    given = torch.from_numpy(factor).to(value.dtype).reshape(value.shape)
    present = [t for t in leaves if t is not None]
    return Answer(value.detach(), list(torch.autograd.grad(value, present, given)), factor)


def wrong_form(table: Table, answer: Answer) -> str | None:
    """Shapes and types: of D, and of V like the dummy gradient's."""
    present = [t for t in table.dummy if t is not None]
    shape = present[0].shape[:1] if table.batched else torch.Size(())
    dtype = torch.float64 if present[0].dtype == torch.float64 else torch.float32
    if answer.value.shape != shape or answer.value.dtype != dtype:
        return f"D is {answer.value.dtype} {tuple(answer.value.shape)}, expected {dtype} {tuple(shape)}"
    for i, (mine, slope) in enumerate(zip(present, answer.slopes or present, strict=True)):
        if slope.shape != mine.shape or slope.dtype != mine.dtype:
            return f"V[{i}] is {slope.dtype} {tuple(slope.shape)}, expected {mine.dtype} {tuple(mine.shape)}"
    return None
