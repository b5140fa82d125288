"""What labels that were searched jointly have come to.

A search moves targets y together with the inputs. To distances that do not see how long a gradient is, the
whole way from y* (the targets that leave no gradient at the found inputs' output) through y is one point, for
the gradient toward the output is linear in y - y*. The side of y* tells classes and yes from no; the length
of the target gradient over that of the found inputs' gives the way's length, and so real targets.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sapag_fast.recovery.result import Recovery
from sapag_fast.runtime.randomness import forked
from sapag_fast.search.prepare import Attack

__all__ = ["with_joint_labels"]


def with_joint_labels(attack: Attack, recovery: Recovery, first: int = 0) -> Recovery:
    """Put labels in place of the numbers behind them; `first` is the number of the first victim."""
    pairs = zip(recovery.inputs, recovery.labels, strict=True)
    told = [_told(attack, victim, inputs, logits) for victim, (inputs, logits) in enumerate(pairs, first)]
    labels, soft = (torch.stack(part) for part in zip(*told, strict=True))
    return replace(recovery, labels=labels, soft_labels=soft)


def _told(attack: Attack, victim: int, inputs: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """One victim's labels and soft labels, of the inputs ``[B, *input_shape]`` that were found with them."""
    problem, loss = attack.problem, attack.setup.loss
    with forked(attack.setup.device), attack.setup.conditions():
        targets = loss.joint_targets(logits)
        with torch.no_grad():
            output = problem.network.output(problem.parameters, problem.network.fresh_buffers(), inputs)
            labels, balanced = loss.decided(targets, output), loss.balanced(output)
        if balanced is None or not bool(torch.isfinite(inputs).all()):
            return labels, targets
        soft = balanced + _lengthening(attack, victim, inputs, logits) * (targets - balanced)
        exact = loss.decided(soft, output)
    return exact, soft


def _lengthening(attack: Attack, victim: int, inputs: Tensor, logits: Tensor) -> float:
    """By what the found inputs' gradient is to be multiplied to come closest to the target; 1 if by nothing.

    Over several local steps the gradient is not linear in the targets' distance from the output.
    """
    problem = attack.problem
    if problem.training is not None:
        return 1.0
    found = problem.gradients(inputs, logits)
    pairs = [
        (mine.detach().double(), target[victim].double())
        for mine, target in zip(found, problem.targets, strict=True)
        if mine is not None and target is not None
    ]
    product = float(sum((mine * target).sum() for mine, target in pairs))
    square = float(sum(mine.square().sum() for mine, _ in pairs))
    factor = product / square if square > 0 else 1.0
    return factor if 0 < factor < float("inf") else 1.0
