"""Networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import nn

from sapag_fast import checks as check
from sapag_fast.models.activations import Activation
from sapag_fast.models.convnet import ConvNet
from sapag_fast.models.encoder import Encoder, EncoderOptions
from sapag_fast.models.initialisation import initialise
from sapag_fast.models.lenet import LeNet
from sapag_fast.models.mlp import MLP
from sapag_fast.models.resnet import ResNet
from sapag_fast.models.vit import ViT
from sapag_fast.runtime.randomness import forked

__all__ = ["MODELS", "make_model"]


@wraps(EncoderOptions, updated=())  # its parameters are the options that the encoder has
def _encoder(**options: Any) -> nn.Module:
    return Encoder(EncoderOptions(**options))


_RESNET18: dict[str, Any] = {"blocks": 2, "shortcut": "projection", "widths": (64, 128, 256, 512)}

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet": LeNet,
    "lenet4": partial(LeNet, convolutions=4),
    "mlp": MLP,
    "convnet": ConvNet,
    "resnet20": ResNet,
    "resnet18": partial(ResNet, **_RESNET18),
    "resnet18-flat": partial(ResNet, **_RESNET18, strides=(1, 1, 1, 1), head=4),
    "vit": ViT,
    "encoder": _encoder,
}
"""Names that `make_model` accepts, and what they make.

``resnet18-flat`` is the residual network that the published re-implementation of SAPAG attacks (there with
sigmoids): all strides 1, an average pool of 4 and a flattened head.
"""

_OWN_WIDTHS = ("resnet18", "resnet18-flat")
"""Names under which the widths may be others; all else that a name settles cannot be given with it."""


def make_model(
    name: str,
    *,
    activation: Activation | None = None,
    initialisation: str = "default",
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """Make a network with weights drawn from `seed`; the global generator is left as it was.

    Parameters
    ----------
    name : str
        One of `MODELS`.
    activation : str, module class, module or function
        See `activations.make_activation`; None: the network's own.
    initialisation : str
        One of `INITIALISATIONS`.
    seed : int
        Of the weights.
    **options
        The network's own: ``channels``, ``image_size`` and ``classes`` of image networks, ``widths`` of most
        of them, ``vocabulary``, ``max_length`` and the rest of `EncoderOptions` of the encoder.

    Returns
    -------
    nn.Module
        On the CPU, in training mode.

    Raises
    ------
    ValueError
        For an unknown name, initialisation, activation or option.
    """
    make = MODELS[check.check_choice("model", name, MODELS)]
    settled = set(make.keywords) if isinstance(make, partial) else set()
    if name in _OWN_WIDTHS:
        settled.discard("widths")
    known = [option for option in inspect.signature(make).parameters if option not in settled]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(
            f"{unknown[0]}: no option of the model {name!r}; expected {', '.join(sorted(known))}"
        )
    if activation is not None:
        options["activation"] = activation
    with forked(torch.device("cpu")):
        model = make(**options)
    return initialise(model, initialisation, seed=seed)
