"""Whether the mean of several inputs of one label would pass for one input.

Their gradient is close to that at their mean, the closer the less a network bends. Where neither the distance
nor the last layer's gradient (`one_product`) could tell the two, a certificate for one input says nothing.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from sapag_fast.exact.reproduce import gradients_about
from sapag_fast.search.basis import make_basis
from sapag_fast.victim.one_product import departure
from sapag_fast.victim.problem import Problem, rebuilt

__all__ = ["mean_passes"]

_APART = 0.2
"""Standard deviation of two inputs from their mean, smooth as pictures are.

Digits of one label, 0.1 to 0.2 from their mean, are 3 to 10 times as far by the distance, but half as far by
the last layer's gradient.
"""
_SEEN = 2.5
"""The least `departure` of such a mean's gradient where those of real digits show."""
_SEED = 20220712


def mean_passes(problem: Problem, inputs: Tensor, labels: Tensor, certifies: float) -> bool:
    """Whether the gradient of two inputs about `inputs` would be taken for that of `inputs`.

    Parameters
    ----------
    problem : Problem
        Of one input behind a gradient, without joint labels.
    inputs, labels : Tensor
        ``[1, channels, height, width]`` and ``[1, ...]``.
    certifies : float
        The largest distance that certifies.
    """
    apart = _difference(tuple(inputs.shape[1:])).to(inputs)
    one, two = gradients_about(problem, inputs, labels, apart)
    if float(rebuilt(problem.distance, batched=False)(one, two)) > certifies:
        return False
    matrices = [g for g in two if g is not None and g.dim() == 2]
    return not (matrices and departure(matrices[-1]) > _SEEN)


@cache
def _difference(shape: tuple[int, ...]) -> Tensor:
    """A smooth picture ``[1, *shape]`` about zero."""
    basis = make_basis("dct", shape, dtype=torch.float64)
    chance = torch.Generator().manual_seed(_SEED)
    drawn = torch.randn((1, *shape), generator=chance, dtype=torch.float64)
    smooth = basis.forward(drawn) - basis.forward(torch.zeros_like(drawn))
    return smooth * (_APART / smooth.square().mean().sqrt())
