"""What a search of inputs comes to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.attack import AttackResult
from sapag_fast.matching import Matching
from sapag_fast.recipes import Recipe

__all__ = ["Recovery", "winners"]


@dataclass(frozen=True)
class Recovery:
    """What `recover` found for R victims: of each the restart with the lowest distance.

    Attributes
    ----------
    inputs : Tensor
        ``[R, B, *input_shape]``, not clamped to the bounds.
    labels : Tensor
        ``[R, B]`` (labels given with more dimensions keep them).
    distance : Tensor
        ``[R]``, without penalties; inf where no iterate was finite.
    evaluations : Tensor
        ``[R]``, int64, over all restarts of the victim.
    status : tuple of str
        R of ``finished``, ``non-finite`` (the winning restart ended on a non-finite value and kept its best
        finite iterate) or ``interrupted``.
    history : Tensor
        ``[evaluations of a restart, R]``, the winner's distance at each evaluation, nan after it stopped.
    mode : str
        How the recoveries were batched: ``explicit``, ``single``, ``vmap`` or ``sequential``.
    mode_reason : str
        Why not explicitly.
    at_once : int
        Searches that ran at once.
    recipe : Recipe
        The settings in force.
    """

    inputs: Tensor
    labels: Tensor
    distance: Tensor
    evaluations: Tensor
    status: tuple[str, ...]
    history: Tensor
    mode: str
    mode_reason: str
    at_once: int
    recipe: Recipe


def winners(
    result: AttackResult, restarts: int, *, joint: bool, matching: Matching, recipe: Recipe
) -> Recovery:
    """Of each victim (its `restarts` tasks lie side by side) the restart with the lowest distance."""
    victims = result.distance.shape[0] // restarts
    best = result.distance.view(victims, restarts).argmin(1)
    winner = best + torch.arange(victims, device=best.device) * restarts
    ended = torch.tensor(result.ended).view(victims, restarts).all(1).tolist()
    status = tuple(
        "non-finite" if not finite else "finished" if whole else "interrupted"
        for finite, whole in zip(result.finite[winner].tolist(), ended, strict=True)
    )
    found = result.labels[winner]
    return Recovery(
        inputs=result.inputs[winner],
        labels=found.argmax(-1) if joint else found,
        distance=result.distance[winner],
        evaluations=result.evaluations.view(victims, restarts).sum(1),
        status=status,
        history=result.history[:, winner],
        mode=matching.mode,
        mode_reason=matching.reason,
        at_once=result.rows,
        recipe=recipe,
    )
