"""Weight initialisations by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.runtime.randomness import seeded

__all__ = ["INITIALISATIONS", "initialise"]


def _fan_in(weight: Tensor) -> int:
    return weight.shape[1] * math.prod(weight.shape[2:])


def _both_fans(weight: Tensor) -> int:
    return _fan_in(weight) + weight.shape[0] * math.prod(weight.shape[2:])


def _uniform(parameter: Tensor, generator: torch.Generator) -> None:
    parameter.uniform_(-0.5, 0.5, generator=generator)


def _normal(std: float) -> Callable[[Tensor, torch.Generator], None]:
    def fill(parameter: Tensor, generator: torch.Generator) -> None:
        parameter.normal_(0.0, std, generator=generator)

    return fill


def _scaled(
    fan: Callable[[Tensor], int], *, normal: bool = False
) -> Callable[[Tensor, torch.Generator], None]:
    """Variance 2 / fan for weights; zeros for vectors."""

    def fill(parameter: Tensor, generator: torch.Generator) -> None:
        if parameter.dim() < 2:
            parameter.zero_()
        elif normal:
            parameter.normal_(0.0, math.sqrt(2.0 / fan(parameter)), generator=generator)
        else:
            bound = math.sqrt(6.0 / fan(parameter))
            parameter.uniform_(-bound, bound, generator=generator)

    return fill


_FILLS: dict[str, Callable[[Tensor, torch.Generator], None]] = {
    "uniform": _uniform,
    "normal.1": _normal(0.1),
    "normal.5": _normal(0.5),
    "xavier": _scaled(_both_fans),
    "xavier-normal": _scaled(_both_fans, normal=True),
    "kaiming": _scaled(_fan_in),
    "kaiming-normal": _scaled(_fan_in, normal=True),
}

INITIALISATIONS: tuple[str, ...] = (*_FILLS, "default")
"""Names that `initialise` accepts."""


def initialise(model: nn.Module, name: str, *, seed: int = 0) -> nn.Module:
    """Draw every weight and bias of `model` anew, in place, and return it.

    ``uniform`` is U(-.5, .5) for weights and biases (as in DLG's code), ``normal.1`` and ``normal.5`` are
    normal with that standard deviation, ``xavier`` and ``kaiming`` are the uniform forms of Glorot and He
    with zero biases, ``xavier-normal`` and ``kaiming-normal`` the normal ones, ``default`` is what the
    modules' own ``reset_parameters`` draws. The numbers are drawn on the CPU from `seed`, so they do not
    depend on the device, and the global generator is left as it was.

    Normalisation layers get weight 1, bias 0 and fresh running statistics under every name: their scale is no
    weight in the sense of these schemes. An embedding is filled as a linear layer's weight of its shape
    ``[tokens, H]`` is (fan in H, fan out tokens), and its padding row stays zero; ``default`` draws it from
    N(0, 1).

    Parameters
    ----------
    model : nn.Module
        On any device.
    name : str
        One of `INITIALISATIONS`.
    seed : int
        Of the numbers.

    Returns
    -------
    nn.Module
        `model`.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    check.check_choice("initialisation", name, INITIALISATIONS)
    seed = check.check_seed(seed)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, found {type(model).__name__}")
    draft = copy.deepcopy(model).cpu()
    if name == "default":
        with seeded(seed, torch.device("cpu")):
            for module in draft.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
    else:
        generator = torch.Generator().manual_seed(seed)
        norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
        with torch.no_grad():
            for module in draft.modules():
                if isinstance(module, norms):
                    module.reset_parameters()
                    continue
                for parameter in module.parameters(recurse=False):
                    _FILLS[name](parameter, generator)
                if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
    model.load_state_dict(draft.state_dict())
    return model
