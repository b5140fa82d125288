"""Parts of a picture that a gradient may be blind to, though most of the picture comes back.

The mean square of what stays says little of a few directions, and a picture can differ much in them: in its
brightness, in a hole, in a row that nothing looks at. So what stays of a perturbation is compared with what
was given of it in each window of pixels, each row and column, the same of its waves (the orthonormal DCT-II),
and in each of the lowest waves, which hold most of a picture and are perturbed more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sapag_fast.search.basis import dct_matrix

__all__ = ["LOCAL", "WAVE", "Part", "blind_directions", "is_picture", "most_kept", "with_low_waves"]

LOCAL = 0.7
"""The largest share of its perturbation that a window, a row or a column of a determined picture keeps: 0.62
was the most of LeNets that keep little in all, trained and not, but for one; 0.72 to 1 where two rows, or 5
by 5 pixels, leave no trace."""
WAVE = 0.5
"""The same of a single low wave: 0.25 was the most, 1 where a network is blind to one."""
_LOW = 8
"""Waves of fewer than that many half periods, down and across, are low."""
_HEIGHT = 1.0
"""The coefficient of each low wave in the perturbation: 1/28 of brightness, for a picture of 28 by 28."""
_WINDOW = 5
Words = Callable[[int, int], str]


@dataclass(frozen=True)
class Part:
    """A part of a picture, and what it keeps of a perturbation.

    Attributes
    ----------
    where : str
        For a sentence: "around row 10, column 8".
    kept : float
        Share of the perturbation's squares in it.
    limit : float
        The largest share of a part of a determined picture.
    """

    where: str
    kept: float
    limit: float

    @property
    def stays(self) -> bool:
        """Whether the gradient does not determine it."""
        return not self.kept <= self.limit


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether inputs ``[B, ...]`` of this shape are pictures ``[B, C, height, width]`` that have windows."""
    return len(shape) == 4 and min(shape[-2:]) >= _WINDOW


def with_low_waves(noise: Tensor) -> Tensor:
    """Give each low wave of `noise` ``[B, C, height, width]`` the same height; signs stay as they are."""
    waves = _waves(noise)
    low = waves[..., :_LOW, :_LOW]
    waves[..., :_LOW, :_LOW] = torch.copysign(torch.full_like(low, _HEIGHT), low)
    down, across = _matrices(noise)
    return (down.T @ waves @ across).to(noise)


def most_kept(stayed: Tensor, given: Tensor) -> list[Part]:
    """For each victim a part of its pictures that stays, or the one that is nearest to its limit.

    Parameters
    ----------
    stayed : Tensor
        ``[W, B, C, height, width]``, what is left of the perturbation.
    given : Tensor
        ``[B, C, height, width]``, the perturbation.
    """
    pixels = [difference.double().square().sum(-3) for difference in (stayed, given)]
    waves = [_waves(difference).square().sum(-3) for difference in (stayed, given)]
    parts: list[list[Part]] = [[] for _ in stayed]
    _add_windows(parts, pixels, _PLACES)
    _add(parts, torch.div(*(squares[..., :_LOW, :_LOW] for squares in waves)), WAVE, _wave, (0, 0))
    _add_windows(parts, waves, _WAVES)
    return [next((part for part in some if part.stays), max(some, key=_nearness)) for some in parts]


def _nearness(part: Part) -> float:
    return part.kept / part.limit


def _add_windows(parts: list[list[Part]], squares: Sequence[Tensor], words: Sequence[Words]) -> None:
    """Add to each victim's parts the window, the row and the column that keep most of what was given."""
    height, width = squares[0].shape[-2:]
    for window, word in zip(((_WINDOW, _WINDOW), (1, width), (height, 1)), words, strict=True):
        shares = torch.div(*(F.avg_pool2d(some, window, 1) for some in squares))
        _add(parts, shares, LOCAL, word, (window[0] // 2, window[1] // 2))


def _add(
    parts: list[list[Part]],
    shares: Tensor,
    limit: float,
    word: Words,
    middle: tuple[int, int],
) -> None:
    """Add to each victim's parts the one that keeps most of shares ``[W, B, down, across]``."""
    most, at = shares.flatten(1).max(1)
    down, across = shares.shape[-2:]
    for some, kept, index in zip(parts, most.tolist(), at.tolist(), strict=True):
        row, column = index // across % down + middle[0], index % across + middle[1]
        some.append(Part(word(row, column), kept, limit))


_PLACES = (
    lambda row, column: f"around row {row}, column {column}",
    lambda row, column: f"in row {row}",
    lambda row, column: f"in column {column}",
)
_WAVES = (
    lambda row, column: f"in its waves of about {row} half periods down and {column} across",
    lambda row, column: f"in its waves of {row} half periods down",
    lambda row, column: f"in its waves of {column} half periods across",
)


def _wave(row: int, column: int) -> str:
    if row == column == 0:
        return "in its brightness"
    return f"in its wave of {row} half periods down and {column} across"


def blind_directions(stayed: Tensor, deviation: float) -> list[int]:
    """About how many of each victim's directions stayed.

    Parameters
    ----------
    stayed : Tensor
        ``[W, B, C, height, width]``.
    deviation : float
        The perturbation's, of waves that are not low.
    """
    stays = _waves(stayed).square()
    stays[..., :_LOW, :_LOW] *= (deviation / _HEIGHT) ** 2
    counts = (stays.flatten(1).sum(1) / deviation**2).nan_to_num(torch.inf)
    return counts.clamp(max=stayed[0].numel()).round().int().tolist()


def _matrices(pictures: Tensor) -> tuple[Tensor, Tensor]:
    down, across = (dct_matrix(size).to(pictures.device) for size in pictures.shape[-2:])
    return down, across


def _waves(pictures: Tensor) -> Tensor:
    """DCT-II of ``[..., height, width]``, float64."""
    down, across = _matrices(pictures)
    return down @ pictures.double() @ across.T
