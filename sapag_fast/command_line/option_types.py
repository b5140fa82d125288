"""Types of the values that options of ``sapag-fast`` take."""

import math
import re
from typing import Any, ClassVar

import click

_MOST, _DIGITS = 2**63 - 1, 30
_DECIMAL = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?(e-?[0-9]{1,2})?")


class ShapeType(click.ParamType):
    """The shape of an input, such as 3x32x32."""

    name = "CxHxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse the shape."""
        if isinstance(value, tuple):
            return value
        shape = _whole_numbers(value.lower(), "x")
        if shape is None or min(shape) < 1 or math.prod(shape) > _MOST:
            self.fail(f"{value!r} is not a shape like 3x32x32", param, ctx)
        return shape


class ShapesType(click.ParamType):
    """Shapes separated by commas."""

    name = "shapes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[int, ...], ...]:
        """Parse each shape."""
        if isinstance(value, tuple):
            return value
        return tuple(SHAPE.convert(part, param, ctx) for part in value.split(","))


class FiniteRange(click.FloatRange):
    """A number in a range; nan lies in none, and neither does infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


SHAPE = ShapeType()
SOME = click.IntRange(0, _MOST)
COUNT = click.IntRange(1, _MOST)
SEED = click.IntRange(-(2**63), 2**64 - 1)


class ScaleType(FiniteRange):
    """A number above zero, or auto."""

    name = "auto|number"

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the number, or pass the word."""
        return value if value == "auto" else super().convert(value, param, ctx)


class NumbersType(click.ParamType):
    """Whole numbers separated by commas, or one of the given words."""

    name = "list"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | tuple[int, ...]:
        """Parse the numbers, or pass the word."""
        if not isinstance(value, str) or value in self.words:
            return value
        numbers = _whole_numbers(value, ",")
        if numbers is None or max(numbers) > _MOST:
            self.fail(f"{value!r} is not {', '.join((*self.words, 'labels like 3,7'))}", param, ctx)
        return numbers


class DecimalsType(click.ParamType):
    """Numbers separated by commas, or one of the given words; whole ones stay whole."""

    name = "list"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | tuple[int, ...] | tuple[float, ...]:
        """Parse the numbers, or pass the word."""
        if not isinstance(value, str) or value in self.words:
            return value
        numbers = _whole_numbers(value, ",")
        if numbers is not None and max(numbers) <= _MOST:
            return numbers
        parts = [part.strip() for part in value.split(",")]
        if not all(_DECIMAL.fullmatch(part) for part in parts):
            self.fail(f"{value!r} is not {', '.join((*self.words, 'numbers like 3,7'))}", param, ctx)
        return tuple(map(float, parts))


class SizeType(click.ParamType):
    """Bytes, such as 4GB, 512MiB or 1000000."""

    name = "size"
    units: ClassVar[dict[str, int]] = {
        "": 1,
        "b": 1,
        **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
        **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
    }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
        size = float(found[1]) * self.units.get(found[2], 0) if found else 0.0
        if not 1 <= size <= _MOST:
            self.fail(f"{value!r} is not a size like 4GB or 512MiB", param, ctx)
        return int(size)


class StatisticType(click.ParamType):
    """One number for all channels, or one for each, separated by commas."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Parse the numbers."""
        if isinstance(value, tuple):
            return value
        numbers = _numbers(value)
        if numbers is None:
            self.fail(f"{value!r} is not a number, or one for each channel, such as 0.5,0.4,0.4", param, ctx)
        return numbers


class BoundsType(click.ParamType):
    """A range, such as 0:1, or one for each channel, such as 0,0,0:1,1,0.5."""

    name = "low:high"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Parse the two ends."""
        if not isinstance(value, str) or value == "none":
            return None if value == "none" else value
        low, colon, high = value.partition(":")
        lows, highs = _numbers(low), _numbers(high)
        if not colon or lows is None or highs is None:
            self.fail(f"{value!r} is not a range such as 0:1 or 0,0,0:1,1,0.5, or none", param, ctx)
        return lows, highs


def _numbers(text: str) -> tuple[float, ...] | None:
    """The finite numbers between commas, or None where something else is there."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _whole_numbers(text: str, separator: str) -> tuple[int, ...] | None:
    """The numbers, or None where something is not one, or too long for one."""
    parts = [part.strip() for part in text.split(separator)]
    plain = all(part.isascii() and part.isdecimal() and len(part) < _DIGITS for part in parts)
    return tuple(map(int, parts)) if plain else None
