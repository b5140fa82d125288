"""Labels of one image, the likeliest first: a step along the right one's gradient lowers its logit most."""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.victim.problem import Problem

__all__ = ["likely_labels"]

_STEP = 1e-3
"""Of the parameters' length, that the network is moved by along the target."""


def likely_labels(problem: Problem, victim: int, image: Tensor) -> Tensor:
    """Classes ``[classes, 1]``, the likeliest first: those whose logit falls most along the gradient."""
    network = problem.network
    target = {
        name: entry[victim]
        for name, entry in zip(problem.names, problem.targets, strict=True)
        if entry is not None
    }
    length = sum(float(network.parameters[name].detach().double().square().sum()) for name in target) ** 0.5
    steep = sum(float(entry.double().square().sum()) for entry in target.values()) ** 0.5
    step = _STEP * length / steep if steep > 0 else 0.0
    moved = {
        name: value + step * target[name] if name in target else value
        for name, value in network.parameters.items()
    }
    with torch.no_grad():
        before, after = (
            network.output(parameters, network.fresh_buffers(), image.clone())
            for parameters in (network.parameters, moved)
        )
    return (after - before).double().flatten().argsort().view(-1, 1)
