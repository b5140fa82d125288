"""Random pairs of gradient tables: every size, layout and magnitude that the distances say they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.reliability.tables.layers import layer_numbers
from benchmarks.reliability.tables.layouts import spread
from benchmarks.reliability.tables.truth import DEFINITIONS

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Differences of two such numbers still fit.
LARGEST = {torch.float32: 1.6e38, torch.float64: 1.6e38, torch.bfloat16: 1.6e38, torch.float16: 3e4}
TARGETS = ("normal", "zero", "constant", "near constant", "mixed", "denormal", "sparse", "one", "integers")
DUMMIES = ("other", "near", "shifted", "multiple", "equal", "zero")


@dataclass
class Table:
    """Two lists of gradients and the options of their comparison."""

    dummy: list[Tensor | None]
    target: list[Tensor | None]
    batched: bool
    layering: dict[str, Any]
    """``merge_bias`` and ``layers``."""
    layer_of: list[int]
    """Of every tensor that is present."""
    layers: int
    options: dict[str, Any]
    """``layer_weights``, ``variance``, ``bandwidth``, ``l1_weight``, where drawn."""
    words: str

    def layering_of(self, kind: str) -> dict[str, Any]:
        """Its layering as this kind takes it: one that merges all layers takes no numbers of them."""
        return self.layering | ({"layers": None} if DEFINITIONS[kind].merged else {})


def draw(rng: np.random.Generator, *, small: bool = False) -> Table:
    """A table; ``small`` for backends that are interpreted or emulated."""
    dtype = DTYPES[rng.choice(4, p=[0.7, 0.12, 0.09, 0.09])]
    batched = bool(rng.random() < 0.3)
    recoveries = int(rng.choice([1, 2, 3, 5])) if batched else 1
    shared = bool(rng.random() < 0.4)
    shapes = _shapes(rng, small)
    merge = bool(rng.random() < 0.8)
    layers = [int(rng.integers(0, len(shapes) + 1)) for _ in shapes] if rng.random() < 0.15 else None
    layer_of, count = layer_numbers(shapes, merge, layers)
    scale = _scale(rng, dtype)
    dummy: list[Tensor | None] = []
    target: list[Tensor | None] = []
    words = [f"{dtype}".removeprefix("torch."), f"scale {scale:.3g}"]
    manner = str(rng.choice(TARGETS, p=[0.6, 0.03, 0.05, 0.05, 0.1, 0.03, 0.06, 0.03, 0.05]))
    nearness = str(rng.choice(DUMMIES, p=[0.3, 0.25, 0.15, 0.15, 0.1, 0.05]))
    closeness = 10 ** rng.uniform(-7, 0)
    factor = float(rng.choice([-1, 1]) * 10 ** rng.uniform(*((-20, 20) if rng.random() < 0.3 else (-1, 1))))
    for shape in shapes:
        if shape is None:
            dummy.append(None)
            target.append(None)
            continue
        own = manner if rng.random() < 0.8 else str(rng.choice(TARGETS))
        theirs = (1 if shared else recoveries, *shape) if batched else shape
        ours = (recoveries, *shape) if batched else shape
        layer_scale = scale * (10 ** rng.uniform(-8, 8) if rng.random() < 0.15 else 1.0)
        t = _values(rng, own, theirs, layer_scale)
        d = _dummy(rng, nearness if rng.random() < 0.85 else str(rng.choice(DUMMIES)), t, ours, layer_scale,
                   closeness, factor)  # fmt: skip
        t_stored, t_words = spread(rng, _stored(t, dtype), batched)
        d_stored, d_words = spread(rng, _stored(d, dtype), batched)
        target.append(t_stored)
        dummy.append(d_stored)
        words.append(f"{tuple(ours)} {own}/{nearness} {d_words}/{t_words}")
    if rng.random() < 0.04:
        words.append(_plant(rng, dummy if rng.random() < 0.5 else target))
    options = _options(rng, recoveries if batched else 0, count)
    return Table(
        dummy, target, batched, {"merge_bias": merge, "layers": layers}, layer_of, count, options,
        "; ".join([*words, f"batched {batched}", f"layers {layers}", f"merge {merge}", str(options)]),
    )  # fmt: skip


def _size(rng: np.random.Generator, small: bool) -> int:
    how = rng.random()
    if how < 0.08:
        return 0
    if how < 0.2:
        return 1
    if small or how < 0.85:
        return int(rng.integers(1, 24))
    if how < 0.995:
        return int(rng.integers(24, 400))
    return int(rng.integers(400, 30_000))


def _shapes(rng: np.random.Generator, small: bool) -> list[tuple[int, ...] | None]:
    count = int(rng.integers(20, 60)) if rng.random() < 0.01 and not small else int(rng.integers(1, 6))
    shapes: list[tuple[int, ...] | None] = []
    for _ in range(count):
        how = rng.random()
        if how < 0.05:
            shapes.append(None)
        elif how < 0.12:
            shapes.append(())
        elif how < 0.5:
            shapes.append((_size(rng, small),))
        elif how < 0.85:
            rows = int(rng.integers(1, 9))
            shapes.append((rows, _size(rng, small) // (rows if rng.random() < 0.8 else 1)))
            if rng.random() < 0.6:
                shapes.append((rows,))
        else:
            shapes.append((int(rng.integers(1, 4)), int(rng.integers(0, 3)), 3, 3))
    if all(shape is None for shape in shapes):
        shapes.append((_size(rng, small),))
    return shapes


def _scale(rng: np.random.Generator, dtype: torch.dtype) -> float:
    how = rng.random()
    if how < 0.6:
        return 1.0
    if how < 0.8 or dtype == torch.float16:
        return float(10 ** rng.uniform(-4, 4))
    return float(10 ** rng.uniform(-38, 38))


def _values(rng: np.random.Generator, manner: str, shape: tuple[int, ...], scale: float) -> np.ndarray:
    normal = rng.standard_normal(shape)
    match manner:
        case "normal":
            return scale * normal
        case "zero":
            return np.zeros(shape)
        case "constant":
            return np.full(shape, scale * rng.standard_normal())
        case "near constant":
            return scale * (1 + 10 ** rng.uniform(-7, -1) * normal)
        case "mixed":
            reach = rng.uniform(1, 12)
            return scale * normal * 10 ** rng.uniform(-reach, reach, shape)
        case "denormal":
            return 1e-39 * normal
        case "sparse":
            return scale * normal * (rng.random(shape) < 0.2)
        case "one":
            values = np.zeros(shape)
            if values.size:
                values.flat[rng.integers(values.size)] = scale
            return values
        case _:
            return np.round(8 * normal)


def _dummy(
    rng: np.random.Generator,
    manner: str,
    target: np.ndarray,
    shape: tuple[int, ...],
    scale: float,
    closeness: float,
    factor: float,
) -> np.ndarray:
    target = np.broadcast_to(target, shape)
    match manner:
        case "other":
            other = str(rng.choice(TARGETS)) if rng.random() < 0.3 else "normal"
            return _values(rng, other, shape, scale * (10 ** rng.uniform(-6, 6) if rng.random() < 0.2 else 1))
        case "near":
            return target * (1 + closeness * rng.standard_normal(shape))
        case "shifted":
            size = np.sqrt(np.square(target / scale).mean()) if target.size else 0.0
            return target + closeness * scale * size * rng.standard_normal(shape)
        case "multiple":
            return factor * target
        case "equal":
            return target.copy()
        case _:
            return np.zeros(shape)


def _stored(values: np.ndarray, dtype: torch.dtype) -> Tensor:
    values = np.clip(values, -LARGEST[dtype], LARGEST[dtype])
    return torch.from_numpy(np.ascontiguousarray(values).reshape(values.shape)).to(dtype)


def _plant(rng: np.random.Generator, tensors: Sequence[Tensor | None]) -> str:
    """A number that is none, in one of the lists."""
    full = [i for i, t in enumerate(tensors) if t is not None and t.numel()]
    if not full:
        return "nothing planted"
    i = int(rng.choice(full))
    tensor = tensors[i]
    assert tensor is not None
    place = tuple(int(rng.integers(size)) for size in tensor.shape)
    value = float(rng.choice([np.nan, np.inf, -np.inf]))
    tensor[place] = value
    return f"{value} at {i}{place}"


def _options(rng: np.random.Generator, recoveries: int, layers: int) -> dict[str, Any]:
    """Drawn for all kinds at once; rows [L], or [R, L] where there are recoveries."""

    def rows(choices: Sequence[float]) -> Tensor:
        shape = (recoveries, layers) if recoveries and rng.random() < 0.5 else (layers,)
        return torch.from_numpy(rng.choice(choices, shape) * rng.uniform(0.5, 1.5, shape))

    options: dict[str, Any] = {}
    if rng.random() < 0.25:
        options["layer_weights"] = rows((0.0, 1.0, 0.3, 7.0))
    if rng.random() < 0.15:
        options["variance"] = rows((0.0, 1.0, 1e-6, 1e6))
    if rng.random() < 0.3:
        options["bandwidth"] = float(10 ** rng.uniform(-3, 3))
    if rng.random() < 0.3:
        options["l1_weight"] = float(rng.choice([0.0, 0.01, 1.0, 100.0]))
    return options
