"""Checks of single values: numbers, names, flags, paths, shapes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import cast

__all__ = [
    "MOST_WEIGHT",
    "check_bounds",
    "check_callable",
    "check_choice",
    "check_count",
    "check_flag",
    "check_fraction",
    "check_integers",
    "check_path",
    "check_positive",
    "check_seed",
    "check_sequence",
    "check_shape",
    "check_text",
    "check_weight",
    "shown",
]

MOST_WEIGHT = 1e18
"""The largest weight, scale or bound: its square, which optimisers form, is still a float32 number."""
_MOST_DIMENSIONS = 60  # torch knows 64
_MOST_COUNT = 2**63 - 1
_MOST_CHARACTERS = 120


def shown(value: object) -> str:
    """`value` as an error message shows it: its repr, cut where it is long."""
    try:
        text = repr(value)
    except Exception:  # ints of thousands of digits, objects whose repr fails
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def check_flag(name: str, value: object) -> bool:
    """Return `value`, True or False (numpy's too)."""
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{name} must be True or False, found {shown(value)}")


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, found {type(value).__name__}")
    return int(value)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, found {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, -1.0 if value < 0 else 1.0)


def check_count(name: str, value: object, *, least: int = 1, most: int = _MOST_COUNT) -> int:
    """Return `value`, an int (numpy's too) in ``least..most``, as a plain one."""
    count = _integer(name, value)
    if count < least:
        raise ValueError(f"{name} must be at least {least}, found {shown(count)}")
    if count > most:
        limit = "2**63 - 1" if most == _MOST_COUNT else most
        raise ValueError(f"{name} must be at most {limit}, found {shown(count)}")
    return count


def check_sequence(name: str, values: object, of: str) -> tuple:
    """Return a sequence as a tuple; `of` says of what."""
    try:
        if not isinstance(values, (str, bytes, Mapping)):
            return tuple(cast(Iterable, values))
    except TypeError:  # what cannot be iterated over, a tensor without dimensions too
        pass
    raise TypeError(f"{name} must be a sequence of {of}, found {shown(values)}")


def check_integers(name: str, values: object, *, least: int = 0, most: int = _MOST_COUNT) -> tuple[int, ...]:
    """Return a sequence of ints in ``least..most`` as a tuple."""
    given = check_sequence(name, values, "ints")
    return tuple(check_count(f"{name}[{i}]", value, least=least, most=most) for i, value in enumerate(given))


def check_seed(seed: object, name: str = "seed") -> int:
    """Return `seed`, an int that a generator takes."""
    value = _integer(name, seed)
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"{name} must lie in -2**63..2**64 - 1, found {shown(value)}")
    return value


def check_weight(name: str, value: object) -> float:
    """Return `value` as a finite, non-negative float, at most `MOST_WEIGHT`."""
    weight = _number(name, value)
    if not math.isfinite(weight) or weight < 0:
        raise ValueError(f"{name} must be finite and not negative, found {shown(value)}")
    if weight > MOST_WEIGHT:
        raise ValueError(f"{name} must be at most {MOST_WEIGHT:g}, found {shown(value)}")
    return weight


def check_positive(name: str, value: object) -> float:
    """Return `value` as a positive float from 1 / `MOST_WEIGHT` to `MOST_WEIGHT`."""
    number = _number(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, found {shown(value)}")
    if not 1 / MOST_WEIGHT <= number <= MOST_WEIGHT:
        raise ValueError(f"{name} must lie in {1 / MOST_WEIGHT:g}..{MOST_WEIGHT:g}, found {shown(value)}")
    return number


def check_fraction(name: str, value: object) -> float:
    """Return `value` as a float from 0 to 1."""
    number = _number(name, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must be a fraction in 0..1, found {shown(value)}")
    return number


def check_choice(name: str, value: object, choices: Collection[str], *, other: str = "") -> str:
    """Return `value`, one of the names in `choices`; `other` says what else the argument takes."""
    if not isinstance(value, str) or value not in choices:
        more = f", or {other}" if other else ""
        raise ValueError(f"{name} must be one of {', '.join(choices)}{more}, found {shown(value)}")
    return value


def check_text(name: str, value: object) -> str:
    """Return `value`, a string that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, found {shown(value)}")
    if not value:
        raise ValueError(f"{name} must be a string of at least one character, found ''")
    return value


def check_path(name: str, value: object) -> Path:
    """Return `value`, a string or a path, as a path."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{name} must be a path, found {shown(value)}")
    if not str(value) or "\0" in str(value):
        raise ValueError(f"{name} must be a path, found {shown(value)}")
    return Path(value)


def check_callable(name: str, value: object) -> Callable:
    """Return `value`, which can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, found {type(value).__name__}")
    return value


def check_bounds(bounds: object) -> tuple[float, float] | None:
    """Return a pair low < high, or None."""
    if bounds is None:
        return None
    try:
        pair = tuple(cast(Iterable, bounds))
        low, high = (_number("bounds", bound) for bound in pair)
    except (TypeError, ValueError):
        raise TypeError(f"bounds must be a pair of numbers or None, found {shown(bounds)}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"bounds must be finite with low < high, found ({low}, {high})")
    if max(-low, high) > MOST_WEIGHT:
        raise ValueError(f"bounds must lie in {-MOST_WEIGHT:g}..{MOST_WEIGHT:g}, found ({low}, {high})")
    return low, high


def check_shape(input_shape: object, name: str = "input_shape") -> tuple[int, ...]:
    """Return the shape of one input, without the batch."""
    if isinstance(input_shape, Integral) and not isinstance(input_shape, bool):
        input_shape = (input_shape,)
    try:
        shape = tuple(_integer(name, size) for size in cast(Iterable, input_shape))
    except TypeError:
        raise TypeError(f"{name} must be a sequence of ints, found {shown(input_shape)}") from None
    if not shape or min(shape) < 1:
        raise ValueError(
            f"{name} must hold positive sizes (without the batch dimension), found {shown(shape)}"
        )
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{name} must have at most {_MOST_DIMENSIONS} dimensions, found {len(shape)}")
    if math.prod(shape) > _MOST_COUNT:
        raise ValueError(f"{name} must hold fewer than 2**63 numbers, found {shown(shape)}")
    return shape
