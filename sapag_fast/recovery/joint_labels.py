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

from sapag_fast.exact.reproduce import compared
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
    labels, soft, doubts = zip(*told, strict=True)
    reasons = tuple(doubt or own for doubt, own in zip(doubts, recovery.label_reason, strict=True))
    return replace(recovery, labels=torch.stack(labels), soft_labels=torch.stack(soft), label_reason=reasons)


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
        target = [None if entry is None else entry[victim] for entry in problem.targets]
        left, factor = compared(target, problem.gradients(inputs, logits))
        toward = 0 < factor < float("inf")
        reason = "" if toward and left <= _LEFT else UNCONFIRMED
        if balanced is None:
            return labels, targets, reason
        soft = balanced + (factor if toward else 1.0) * (targets - balanced)
        exact = loss.decided(soft, output)
    return exact, soft, reason
