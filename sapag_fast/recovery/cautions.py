"""What speaks against a recovery although nothing went wrong: said beside it, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sapag_fast.search.box import Box
from sapag_fast.search.scale import TYPICAL
from sapag_fast.search.setup import Setup
from sapag_fast.victim.cautions import Caution

__all__ = ["cautions_of", "joined_cautions"]

_BEYOND = 0.02  # of the box's width: a penalty leaves less than that of a picture which fits the box
_MOST_PRESSED = 0.15
# Digits, faces and photographs searched in their own box: 0 to 0.13 of the values. Normalised ones in [0, 1]:
# 0.2 to 0.65, but for 0.02 and 0.09 of two faces behind ReLU, of which nothing was recovered.

_TINY = 1e4
"""Squared roundings of a number: a distance at noise below so many is at the floor, or near it."""
_LEAST_SHARE = 0.03
# Of noise's distance. VGG-style networks of up to 14 sigmoid layers come to 1e-6 to 7e-4 of it, and recover;
# at 0.1 half of the pictures are recovered, and at 2 to 4, with 14 and 16 default layers, none.


def cautions_of(setup: Setup, inputs: Tensor, distance: Tensor, scale: Tensor) -> tuple[Caution, ...]:
    """Of the network's mode, and of what was found of V victims.

    Parameters
    ----------
    setup : Setup
    inputs : Tensor
        ``[V, B, *input_shape]``.
    distance, scale : Tensor
        ``[V]``, see `Recovery`.
    """
    return (*setup.cautions, *_box_caution(setup, inputs), *_digits_caution(setup, distance, scale))


def _digits_caution(setup: Setup, distance: Tensor, scale: Tensor) -> tuple[Caution, ...]:
    """Where rounding takes as much of the distance as the inputs do."""
    if setup.recipe.scale != "auto":
        return ()
    noise = TYPICAL / scale  # of victims that are scaled
    floor = _TINY * torch.finfo(setup.dtype).eps ** 2
    lost = (scale != 1.0) & (noise < floor) & (distance >= _LEAST_SHARE * noise)
    victims = lost.nonzero().flatten().tolist()
    if not victims:
        return ()
    name = str(setup.dtype).removeprefix("torch.")
    worst = max(victims, key=lambda victim: float(distance[victim] / noise[victim]))
    found, other = float(distance[worst]), float(noise[worst])
    more = "; taken in float64 (model.double()) it may hold enough" if name == "float32" else ""
    message = (
        f"{name} holds too few of the gradient's digits: the search came down to a distance of {found:.1g}, "
        f"and noise has {other:.1g}{more}"
    )
    return (Caution("few-digits", "", message, tuple(victims)),)


def _box_caution(setup: Setup, inputs: Tensor) -> tuple[Caution, ...]:
    if setup.bounds is None:
        return ()
    shares = _pressed(inputs, setup.bounds, clipped=setup.recipe.clip)
    pressed = (shares > _MOST_PRESSED).nonzero().flatten().tolist()
    if not pressed:
        return ()
    most = float(shares.max())
    hint = (
        "mean and std, or the bounds, may not be the client's"
        if setup.options.mean is not None
        else "if the client normalises its pictures, give mean and std, else other bounds"
    )
    message = f"{most:.0%} of the recovered values press past the bounds: {hint}"
    return (Caution("box", "", message, tuple(pressed)),)


def joined_cautions(
    found: Iterable[Caution], again: Iterable[Caution], taken: Mapping[int, int]
) -> tuple[Caution, ...]:
    """Cautions of `found` where victims (keys) were `taken` from others of `again` (values)."""
    kept = (_moved(caution, lambda victim: None if victim in taken else victim) for caution in found)
    numbers = {theirs: ours for ours, theirs in taken.items()}
    new = (_moved(caution, numbers.get) for caution in again)
    return tuple(dict.fromkeys(caution for caution in (*kept, *new) if caution is not None))


def _moved(caution: Caution, number: Callable[[int], int | None]) -> Caution | None:
    """The caution with its victims' new numbers; None where none of them is left."""
    if not caution.victims:
        return caution
    victims = tuple(new for victim in caution.victims if (new := number(victim)) is not None)
    return replace(caution, victims=victims) if victims else None


def _pressed(inputs: Tensor, box: Box, *, clipped: bool) -> Tensor:
    """For each victim the share of values beyond the box, or `clipped` exactly at its border: ``[V]``."""
    low, high = box
    beyond = torch.maximum(low - inputs, inputs - high) / (high - low) > _BEYOND
    if clipped:
        beyond = beyond | (inputs == low) | (inputs == high)
    return beyond.flatten(1).double().mean(1)
