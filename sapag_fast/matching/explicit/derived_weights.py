"""Modules whose weights their own forward does not find as their parameters.

Weight normalisation and parametrizations make them of other parameters at each call; an attention module
hands its last layer's to a function.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["has_derived_weights", "hooks_of_its_own", "private_copy"]

_HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


def _weight_norms(module: nn.Module) -> list[WeightNorm]:
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]


def has_derived_weights(module: nn.Module) -> bool:
    """Whether no layer rule can take the module's weights."""
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return True
    return bool(_weight_norms(module)) or parametrize.is_parametrized(module)


def hooks_of_its_own(module: nn.Module) -> bool:
    """Whether hooks other than weight normalisation's run when the module is called."""
    others = len(module._forward_pre_hooks) - len(_weight_norms(module))
    return others > 0 or any(getattr(module, hooks, None) for hooks in _HOOKS)


def private_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy; of weights that hooks make anew at each call the value alone.

    Parameters
    ----------
    model : nn.Module
    memo : dict, optional
        As of `copy.deepcopy`.
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        for hook in _weight_norms(module):
            made = module.__dict__.get(hook.name)
            if isinstance(made, Tensor):
                memo[id(made)] = made.detach().clone()
    return copy.deepcopy(model, memo)
