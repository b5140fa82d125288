"""The linear layer that is fed the input itself: where its gradients stand, and how its numbers are pixels.

What it is fed must be the input's own numbers in another shape or order, behind the normalisation that the
network was given. That is told by one run on numbers that are all different, in the unit interval and far
beyond it: a clamp, ReLU or absolute value in between leaves pictures from 0 to 1 alone, and others not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.exact.answer import DoesNotApplyError
from sapag_fast.victim.model import VictimModel
from sapag_fast.victim.normalised import Normalised
from sapag_fast.victim.problem import Problem

__all__ = ["FirstLinear", "find_first_linear"]

_SEED = 20240306
_FAR = 1000.0


@dataclass(frozen=True, eq=False)
class FirstLinear:
    """A biased linear layer that is fed the input.

    Attributes
    ----------
    module : nn.Linear
    weight, bias : int
        Where its gradients stand among the target's.
    order : Tensor
        ``[numbers]``, int64: the layer's j-th number is the input's ``order[j]``-th.
    normalisation : Normalised or None
        What lies between.
    input_shape : tuple of int
    """

    module: nn.Linear
    weight: int
    bias: int
    order: Tensor
    normalisation: Normalised | None
    input_shape: tuple[int, ...]

    def pictures(self, fed: Tensor) -> Tensor:
        """Inputs ``[B, *input_shape]`` of what the layer is fed, ``[B, numbers]``, float64 on the CPU."""
        ordered = torch.empty_like(fed)
        ordered[:, self.order] = fed
        inputs = ordered.view(-1, *self.input_shape)
        if (normal := self.normalisation) is None:
            return inputs
        return inputs * normal.std.double().cpu() + normal.mean.double().cpu()


def find_first_linear(problem: Problem, input_shape: Sequence[int]) -> FirstLinear:
    """Find the layer, by one run of the network: to be called where random numbers may be drawn.

    Raises
    ------
    DoesNotApplyError
        Where there is none, or its gradients are not whole.
    """
    network = problem.network
    named = dict(network.module.named_modules())
    fed = _seen(network, input_shape)
    normal = network.module if isinstance(network.module, Normalised) else None
    inputs = _inputs(network, input_shape)
    expected = inputs if normal is None else (inputs - normal.mean) / normal.std
    flat = expected.flatten(1)
    why = ""
    for name, seen in fed.items():
        if len(seen) != 1 or seen[0].shape != flat.shape or (order := _order(flat, seen[0])) is None:
            continue
        module = named[name]
        assert isinstance(module, nn.Linear)
        places = _places(problem, name, module)
        if isinstance(places, str):
            why = places
            continue
        return FirstLinear(module, *places, order, normal, tuple(input_shape))
    raise DoesNotApplyError(why or "no linear layer is fed the input itself (flattened, unchanged)")


def _inputs(network: VictimModel, input_shape: Sequence[int]) -> Tensor:
    """Two inputs whose numbers are all different: one in the unit interval, one from -1000 to 1000."""
    like = next(iter(network.parameters.values()))
    count = 2 * math.prod(input_shape)
    chance = torch.Generator().manual_seed(_SEED)
    numbers = (torch.randperm(count, generator=chance, dtype=torch.float64) + 0.5) / count
    numbers = numbers.view(2, *input_shape)
    numbers[1] = 2 * _FAR * numbers[1] - _FAR
    return numbers.to(like)


@torch.no_grad()
def _seen(network: VictimModel, input_shape: Sequence[int]) -> dict[str, list[Tensor]]:
    """What each linear layer is fed, in the order in which they run."""
    seen: dict[str, list[Tensor]] = {}
    hooks, numbers = [], math.prod(input_shape)
    for name, module in network.module.named_modules():
        if isinstance(module, nn.Linear) and module.in_features == numbers:

            def note(_: nn.Module, given: tuple[Any, ...], name: str = name) -> None:
                seen.setdefault(name, []).append(given[0])

            hooks.append(module.register_forward_pre_hook(note))
    if not hooks:  # and so most networks with convolutions are not run
        return seen
    try:
        network.output(network.parameters, network.fresh_buffers(), _inputs(network, input_shape))
    except Exception as error:
        raise DoesNotApplyError(f"the model rejects two inputs at once ({type(error).__name__})") from error
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _order(flat: Tensor, fed: Tensor) -> Tensor | None:
    """How the numbers ``[2, n]`` are ordered in what the layer is fed; None where they are not the same."""
    order = torch.empty(flat.shape[1], dtype=torch.long)
    order[fed[0].argsort().cpu()] = flat[0].argsort().cpu()
    return order if torch.equal(flat[:, order.to(flat.device)], fed) else None


def _places(problem: Problem, name: str, module: nn.Linear) -> tuple[int, int] | str:
    """Where the gradients of weight and bias stand, or what is missing."""
    what = f"the first linear layer ({name or 'the model itself'})"
    if module.bias is None:
        return f"{what} has no bias, without which an input's scale is not told"
    names = [f"{name}.{own}".lstrip(".") for own in ("weight", "bias")]
    at = [problem.names.index(own) if own in problem.names else None for own in names]
    if any(place is None or problem.targets[place] is None for place in at):
        return f"the gradient of {what} is not there"
    return at[0] or 0, at[1] or 0
