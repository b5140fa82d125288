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

__all__ = ["UNCONFIRMED", "with_joint_labels"]

UNCONFIRMED = "nothing confirms them: the gradient at what the search found is not the target"
_LEFT = 0.2
"""The most that may be missing of the target's length at what is found. Where the sign of output minus target
is wrong, which a distance of directions cannot cross, all of it is."""


def with_joint_labels(attack: Attack, recovery: Recovery, first: int = 0) -> Recovery:
    """Put labels in place of the numbers behind them; `first` is the number of the first victim."""
    pairs = zip(recovery.inputs, recovery.labels, strict=True)
    told = [_told(attack, victim, inputs, logits) for victim, (inputs, logits) in enumerate(pairs, first)]
    labels, soft = (torch.stack(part) for part in list(zip(*told, strict=True))[:2])
    reasons = tuple(reason or own for (*_, reason), own in zip(told, recovery.label_reason, strict=True))
    return replace(recovery, labels=labels, soft_labels=soft, label_reason=reasons)


def _told(attack: Attack, victim: int, inputs: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, str]:
    """One victim's labels, soft labels and what speaks against them.

    They are those of the inputs ``[B, *input_shape]`` that were found with them.
    """
    problem, loss = attack.problem, attack.setup.loss
    with forked(attack.setup.device), attack.setup.conditions():
        targets = loss.joint_targets(logits)
        with torch.no_grad():
            output = problem.network.output(problem.parameters, problem.network.fresh_buffers(), inputs)
            labels, balanced = loss.decided(targets, output), loss.balanced(output)
        if not bool(torch.isfinite(inputs).all()):
            return labels, targets, UNCONFIRMED
        if problem.training is not None:  # not linear in the targets
            return labels, targets, ""
        factor, left = _fitted(attack, victim, inputs, logits)
        reason = "" if left <= _LEFT else UNCONFIRMED
        if balanced is None:
            return labels, targets, reason
        soft = balanced + factor * (targets - balanced)
        exact = loss.decided(soft, output)
    return exact, soft, reason


def _fitted(attack: Attack, victim: int, inputs: Tensor, logits: Tensor) -> tuple[float, float]:
    """By what the found inputs' gradient is to be multiplied to come closest to the target; 1 if by nothing.

    And how far it stays away then, of the target's length.
    """
    problem = attack.problem
    found = problem.gradients(inputs, logits)
    pairs = [
        (mine.detach().double(), target[victim].double())
        for mine, target in zip(found, problem.targets, strict=True)
        if mine is not None and target is not None
    ]
    product = float(sum((mine * target).sum() for mine, target in pairs))
    square = float(sum(mine.square().sum() for mine, _ in pairs))
    length = float(sum(target.square().sum() for _, target in pairs))
    factor = product / square if square > 0 else 1.0
    factor = factor if 0 < factor < float("inf") else 1.0
    left = float(sum((target - factor * mine).square().sum() for mine, target in pairs))
    return factor, (left / length) ** 0.5 if length > 0 else float("inf")
