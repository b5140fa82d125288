"""Whether inputs that follow by arithmetic give the gradient that was shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sapag_fast.victim.problem import Problem, rebuilt

__all__ = ["Reproduction", "compared", "flows_toward", "gradients_about", "mean_shows", "reproduce"]

_APART = 0.15
"""Standard deviation of the difference between an input and its mean with another: that of two digits."""
_SEED = 20220711


@dataclass(frozen=True)
class Reproduction:
    """How the gradient at a candidate compares with the target.

    Attributes
    ----------
    difference : float
        Length of what is left of the target, relative to the target's, once the candidate's gradient is taken
        `factor` times.
    factor : float
        1 but for clients that clip or scale.
    distance : float
        The problem's distance between the two as they are.
    """

    difference: float
    factor: float
    distance: float


def reproduce(
    problem: Problem, victim: int, inputs: Tensor, labels: Tensor, *, share: float = 1.0
) -> Reproduction:
    """Compare the gradient at ``inputs [B, *input_shape]`` and their labels with a victim's target.

    Parameters
    ----------
    problem : Problem
        Without joint labels.
    victim : int
    inputs, labels : Tensor
    share : float
        What part of the batch they are: the others count nothing.
    """
    target = [None if entry is None else entry[victim] for entry in problem.targets]
    gradients = problem.gradients(inputs.clone(), labels)  # networks may change what they are given
    dummy = [
        None if t is None else torch.zeros_like(t) if g is None else share * g.detach()
        for g, t in zip(gradients, target, strict=True)
    ]
    difference, factor = compared(target, dummy)
    distance = rebuilt(problem.distance, batched=False)(dummy, target)
    return Reproduction(difference, factor, float(distance))


def mean_shows(problem: Problem, inputs: Tensor, labels: Tensor, difference: float) -> bool:
    """Whether several inputs of one label would not pass for their mean.

    Each input is made two that lie about it: their gradient has to differ from the input's by more than
    `difference` of its length, as two different inputs' would. Where what flows back does not depend on the
    input, as behind weights of zero, it does not.

    Parameters
    ----------
    problem : Problem
        Without joint labels.
    inputs, labels : Tensor
        ``[B, *input_shape]`` and ``[B, ...]``.
    difference : float
    """
    chance = torch.Generator().manual_seed(_SEED)
    for one, label in zip(inputs.split(1), labels.split(1), strict=True):
        apart = _APART * torch.randn(one.shape, generator=chance, dtype=torch.float64).to(one)
        alone, together = gradients_about(problem, one, label, apart)
        if not compared(alone, together)[0] > difference:
            return False
    return True


def gradients_about(
    problem: Problem, one: Tensor, label: Tensor, apart: Tensor
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """The gradient of one input ``[1, *input_shape]``, and that of the two that lie `apart` from it."""
    about, twice = torch.cat((one - apart, one + apart)), torch.cat((label, label))
    both = problem.gradients(one, label), problem.gradients(about, twice)
    alone, together = ([None if g is None else g.detach() for g in gradients] for gradients in both)
    return alone, together


def compared(target: Sequence[Tensor | None], dummy: Sequence[Tensor | None]) -> tuple[float, float]:
    """What is left of the target once `dummy` is taken a factor times, relative to it, and the factor."""
    pairs = [
        (g.detach().double(), t.detach().double())
        for g, t in zip(dummy, target, strict=True)
        if g is not None and t is not None
    ]
    product = sum(float((g * t).sum()) for g, t in pairs)
    own = sum(float(g.square().sum()) for g, _ in pairs)
    length = sum(float(t.square().sum()) for _, t in pairs)
    factor = product / own if own > 0 else float("nan")
    left = sum(float((t - factor * g).square().sum()) for g, t in pairs)
    return ((left / length) ** 0.5 if length > 0 else float("inf")), factor


def flows_toward(problem: Problem, module: nn.Linear, inputs: Tensor, labels: Tensor) -> Tensor:
    """The loss's gradient toward what the layer gives for each input, ``[B, rows]``, float64 on the CPU."""
    seen: list[Tensor] = []

    def cut(_: nn.Module, given: Sequence[Tensor], output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    hook = module.register_forward_hook(cut)
    network = problem.network
    try:
        with torch.enable_grad():
            output = network.output(network.parameters, network.fresh_buffers(), inputs)
            loss = problem.loss_fn(output, labels)
            (flow,) = torch.autograd.grad(loss, seen[-1:], allow_unused=True)
    finally:
        hook.remove()
    return (torch.zeros_like(seen[-1]) if flow is None else flow).double().cpu()
