"""Inverting Gradients: 1 - cos of the whole gradient, total variation, signed Adam, the box after each step.

Step length 0.1, dropped to a tenth at 3/8, 5/8 and 7/8 of the iterations (4800 by default), total variation
0.1 on the mean difference of neighbours, label from the last layer's gradient, all in normalised pixels from
a standard normal start, as in the published code. The cosine is taken as ½‖u'-u‖², which keeps its digits
near the target, and gradients are formed toward the image alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers.contender import Found, label_of
from benchmarks.peers.victims import Victims
from benchmarks.peers.watch import Watch

__all__ = ["InvertingGradients"]

_TV = 0.1


class InvertingGradients:
    """The loop for one victim after the other."""

    name = "Inverting Gradients"
    budgets = (100, 300, 1000, 4800)
    at_once = 1
    channels = (1, 3)

    def run(
        self, victims: Victims, chosen: Sequence[int], budget: int, watches: Sequence[Watch] = ()
    ) -> list[Found]:
        return [self._one(victims, victim, budget, watch) for victim, watch in zip_longest(chosen, watches)]

    def _one(self, victims: Victims, victim: int, budget: int, watch: Watch | None) -> Found:
        model, target = victims.normalised(), victims.gradient(victim)
        parameters, label = tuple(model.parameters()), label_of(target)
        norm = torch.sqrt(sum((t * t).sum() for t in target))
        unit = [t / norm for t in target]
        low, high = -victims.mean / victims.deviation, (1 - victims.mean) / victims.deviation
        z = victims.starts[victim].clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=0.1)
        drops = [int(budget * part) for part in (3 / 8, 5 / 8, 7 / 8)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=drops, gamma=0.1)
        best, image = float("inf"), z.detach().clone()
        for _ in range(budget):
            if watch is not None:
                watch.look(model.pixels(z.detach())[0])
            loss = F.cross_entropy(model(z), label)
            dummy = torch.autograd.grad(loss, parameters, create_graph=True)
            length = torch.sqrt(sum((g * g).sum() for g in dummy))
            distance = 0.5 * sum(((g / length - u) ** 2).sum() for g, u in zip(dummy, unit, strict=True))
            objective = distance + _TV * _total_variation(z)
            (slope,) = torch.autograd.grad(objective, z)
            value = objective.item()
            if value < best:
                best, image = value, z.detach().clone()
            z.grad = slope.sign_()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                z.copy_(torch.maximum(torch.minimum(z, high), low))
        return Found(model.pixels(image)[0], budget)


def _total_variation(x: Tensor) -> Tensor:
    down = (x[..., 1:, :] - x[..., :-1, :]).abs().mean()
    return down + (x[..., 1:] - x[..., :-1]).abs().mean()
