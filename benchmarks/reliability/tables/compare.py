"""Whether D and V are right.

A number is right if it lies within

    twice the error of the eager formula in the gradients' own precision (float32 for halves)
    + what the sums in double precision may cost (`truth`: 1e-13 relative, 4e-13 absolute on 2 - 2cos)
    + the rounding of the arithmetic, 8 half units in the last place of the terms that V is a difference of
    + the rounding of the result, 2 half units in the last place of its own type
    + on the reference, which forms D and V from u' - u, the rounding of that in double precision
    + the type's smallest normal number: what is smaller may be flushed to zero; so may, in double precision,
      exp(-z) and the factors of both gradients in V, whatever they are multiplied by.

The eager formula is asked only where the other terms do not do: where it is not finite itself, it excuses
nothing. A number beyond the largest of its type must be infinite or within a hundredth of the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.reliability.tables.expected import Expected, joined, rows

HALF_UNIT = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}
Eager = Callable[[int], tuple[float, list[np.ndarray]]]


def wrong_value(found: Tensor, expected: Expected, eager: Eager, by_formula: bool = False) -> str | None:
    """What is wrong with D, ``()`` or ``[R]``; ``by_formula``: the reference."""
    values = found.detach().double().reshape(-1).numpy()
    if len(values) != len(expected.value):
        return f"D has {len(values)} recoveries, expected {len(expected.value)}"
    info = torch.finfo(found.dtype)
    for r, value in enumerate(values):
        exact = expected.value[r]
        if expected.broken[r]:
            if np.isfinite(value):
                return f"D[{r}] = {value} of a gradient that is not finite"
            continue
        if expected.close[r]:
            continue
        slack = float(expected.value_error[r] + 2 * HALF_UNIT[found.dtype] * abs(exact) + info.tiny)
        if by_formula:
            slack += float(expected.value_floor[r])
        if _fits(value, float(exact), slack, info.max):
            continue
        apart = abs(eager(r)[0] - float(exact))
        if not (np.isfinite(apart) and _fits(value, float(exact), slack + 2 * apart, info.max)):
            return f"D[{r}] = {value!r}, exactly {float(exact)!r} ± {slack:.3g}, eager's error {apart:.3g}"
    return None


def wrong_slopes(
    found: Sequence[Tensor], expected: Expected, layer_of: Sequence[int], batched: bool, eager: Eager,
    factor: np.ndarray | None = None,
    by_formula: bool = False,
) -> str | None:  # fmt: skip
    """What is wrong with V; ``factor`` ``[R]`` multiplies what is expected; ``by_formula``: the reference."""
    dtype = found[0].dtype
    info, arithmetic = torch.finfo(dtype), max(2.0**-53, min(HALF_UNIT[dtype], 2.0**-24))
    layers = joined([rows(t, batched) for t in found], layer_of, len(expected.slopes))
    judged = ~(expected.broken | expected.close)
    scale = np.ones((len(judged), 1)) if factor is None else factor[:, None]
    for at, (mine, slope, terms) in enumerate(zip(layers, expected.slopes, expected.terms, strict=True)):
        exact, size = slope * scale, np.abs(terms * scale)
        slack = (
            size * (8 * arithmetic + expected.relatives[at])
            + 2 * HALF_UNIT[dtype] * np.abs(exact)
            + info.tiny * np.maximum(np.abs(scale), 1)
        )
        slack = slack + expected.lost[at] * np.abs(scale)
        if by_formula:
            slack = slack + expected.floors[at] * np.abs(scale)
        largest = np.maximum(np.abs(exact), np.abs(slope)) + slack  # V is rounded, then multiplied
        with np.errstate(all="ignore"):
            good = np.abs(mine - exact) <= slack
            good |= (largest > info.max) & (mine * np.sign(exact) >= 0.99 * info.max)
            good |= (
                np.maximum(size, np.abs(terms)) > info.max
            )  # a difference of numbers that the type does not hold
        for r in np.flatnonzero(judged & ~good.all(1)):
            apart = np.abs(eager(int(r))[1][at] - slope[r]) * np.abs(scale[r])
            worst = float(apart.max(initial=0))
            bad = ~good[r] & ~(np.isfinite(worst) & (np.abs(mine[r] - exact[r]) <= slack[r] + 2 * worst))
            if bad.any():
                i = int(np.flatnonzero(bad)[0])
                return (
                    f"V[{r}] of layer {at}, element {i} = {float(mine[r, i])!r}, exactly "
                    f"{float(exact[r, i])!r} ± {float(slack[r, i]):.3g}, eager's error {worst:.3g}"
                )
    return None


def _fits(value: float, exact: float, slack: float, largest: float) -> bool:
    if abs(value - exact) <= slack:
        return True
    return abs(exact) + slack > largest and value * np.sign(exact) >= 0.99 * largest
