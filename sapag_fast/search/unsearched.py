"""What a search comes to that has nothing to search: all its victims are answered."""

from __future__ import annotations

import torch
from torch import Tensor

from sapag_fast.search.loop import Ended, Hooks
from sapag_fast.search.tasks import AttackResult

__all__ = ["unsearched"]


def unsearched(starts: Tensor, labels: Tensor, restarts: int, hooks: Hooks | None = None) -> AttackResult:
    """Give tasks that never begin, and hand out their victims.

    Parameters
    ----------
    starts : Tensor
        ``[T, B, *input_shape]``, T = victims x restarts, victim by victim.
    labels : Tensor
        ``[T, B, ...]``.
    restarts : int
    hooks : Hooks, optional
        Told of all victims at once.
    """
    whole = _never(starts, labels)
    if hooks is not None and hooks.on_victims is not None:
        victims = range(len(starts) // restarts)
        parts = [slice(v * restarts, (v + 1) * restarts) for v in victims]
        result = [_never(starts[part], labels[part]) for part in parts]
        hooks.on_victims(Ended(victims, result.__getitem__, lambda victim: None, last=True))
    return whole


def _never(starts: Tensor, labels: Tensor) -> AttackResult:
    tasks = len(starts)
    nothing = starts.new_full((tasks,), torch.inf)
    return AttackResult(
        inputs=starts.clone(),
        labels=labels.clone(),
        matched=nothing,
        distance=nothing.clone(),
        objective=nothing.clone(),
        evaluations=torch.zeros(tasks, dtype=torch.long, device=starts.device),
        finite=torch.ones(tasks, dtype=torch.bool, device=starts.device),
        history=starts.new_empty(0, tasks),
        scale=torch.ones_like(nothing),
        ended=(True,) * tasks,
        rows=tasks,
        mode="exact",
        mode_reason="every victim's inputs follow from its gradient by arithmetic",
    )
