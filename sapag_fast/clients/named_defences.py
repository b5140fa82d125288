"""Defences by name and strength, as the command line has them: ``clip:1``, ``noise:0.01``, ``sign``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sapag_fast.clients.defences import (
    Defence,
    Gradient,
    clip_norm,
    compose,
    gaussian_noise,
    prune,
    quantise,
    sign,
    withhold,
)

__all__ = ["NAMES", "named_defences"]

NAMES = ("noise:SCALE", "relative-noise:SCALE", "clip:NORM", "prune:FRACTION", "sign", "quantise:BITS")
"""What is understood, besides ``withhold:INDEX,INDEX,...``."""


def named_defences(texts: Sequence[str], seed: int) -> Defence:
    """The defences that the texts name, composed in their order.

    What they draw at random follows from `seed`, but is not what torch itself draws after that seed (a
    model's weights, say).

    Raises
    ------
    ValueError
        For an unknown name and a value that does not fit, with the text.
    """
    generator = torch.Generator()
    defences = [_defence(text, generator) for text in texts]
    digest = hashlib.sha256(f"defence {seed}".encode()).digest()
    generator.manual_seed(int.from_bytes(digest[:7], "big"))  # after the trials that the defences were put to
    return compose(*defences)


def _defence(text: str, generator: torch.Generator) -> Defence:
    name, _, value = text.partition(":")
    makers: dict[str, Callable[[], Defence]] = {
        "noise": lambda: partial(gaussian_noise, scale=float(value), generator=generator),
        "relative-noise": lambda: partial(
            gaussian_noise, scale=float(value), generator=generator, relative=True
        ),
        "clip": lambda: partial(clip_norm, max_norm=float(value)),
        "prune": lambda: partial(prune, fraction=float(value)),
        "quantise": lambda: partial(quantise, bits=int(value)),
        "withhold": lambda: partial(withhold, layers=[int(part) for part in value.split(",")]),
    }
    if text == "sign":
        return sign
    if name not in makers:
        known = ", ".join((*NAMES, "withhold:INDEX,..."))
        raise ValueError(f"defence {text!r}: expected one of {known}")
    if not value:
        such = next((known for known in NAMES if known.startswith(f"{name}:")), "withhold:INDEX,INDEX,...")
        raise ValueError(f"defence {text!r}: expected {such}, found no value")
    try:
        defence = makers[name]()
        if name == "withhold":  # what its positions may be, the gradient alone says
            return partial(_withheld, text, defence)
        defence([torch.zeros(1)])
    except ValueError as error:
        raise ValueError(f"defence {text!r}: {error}") from None
    return defence


def _withheld(
    text: str, defence: Defence, gradients: Gradient, *, batched: bool = False
) -> list[Tensor | None]:
    try:
        return defence(gradients, batched=batched)
    except ValueError as error:
        raise ValueError(f"defence {text!r}: {error}") from None
