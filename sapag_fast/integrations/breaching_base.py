"""What all of the fused objectives for breaching share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sapag_fast.distances.gradient_distance import GradientDistance
from sapag_fast.integrations.attention import PLAIN_ATTENTION
from sapag_fast.integrations.candidate import CandidateDistance
from sapag_fast.victim.searchable import NoSecondDerivativeError

__all__ = ["Objective", "check_known", "remembered"]

if TYPE_CHECKING:

    class _GradientLoss:
        """What is used of breaching's class of that name."""

        loss_fn: Callable[[Tensor, Tensor], Tensor]
        local_hyperparams: Any
        cfg_impl: Any

        def forward(
            self, model: nn.Module, gradient_data: Sequence[Tensor], candidate: Tensor, labels: Tensor
        ) -> tuple[Tensor, Tensor]: ...

else:
    _GradientLoss = object

_QUERIES = 4096  # more than these, and the oldest goes: what is kept of one is little beside its gradient
_COMMON = ("type", "scale", "task_regularization")
_OF_OTHERS = (
    "tag_scale",
    "scale_scheme",
    "fudge_factor",
    "mask_value",
    "eps",
    "level_gradients",
    "implementation",
)


def check_known(options: Mapping[str, Any], takes: Sequence[str]) -> None:
    """Refuse what is no option of an objective, of breaching's or of ours.

    Raises
    ------
    ValueError
        Naming it, and those that there are.
    """
    for name in options:
        if name not in (*_COMMON, *_OF_OTHERS, *takes):
            known = ", ".join((*_COMMON, *takes))
            raise ValueError(f"objective.{name}: expected one of {known}, found an option that is none")


class Objective(_GradientLoss):
    """What all objectives share; goes in front of breaching's ``GradientLoss``.

    Parameters
    ----------
    scale, task_regularization : float
        As breaching has them.
    **options
        What else ``cfg.objective`` holds, `type` among it. Options of breaching's other objectives are left
        alone: a configuration may have its type changed and nothing else.

    Attributes
    ----------
    takes : tuple of str
        Options of this objective that breaching's own have not.
    distance_only : bool
        As `sapag_fast.integrations.breaching.install` was told.
    """

    takes: tuple[str, ...] = ()
    distance_only = False

    def __init__(self, scale: float = 1.0, task_regularization: float = 0.0, **options: Any) -> None:
        super().__init__()
        check_known(options, self.takes)
        self.scale = float(scale)
        self.task_regularization = task_regularization
        self.options = options
        self.distances: dict[int, GradientDistance] = {}
        self.candidates: dict[int, CandidateDistance | None] = {}

    def make(self, count: int) -> GradientDistance:
        """The distance of lists of `count` gradients."""
        raise NotImplementedError

    def finish(self, distance: Tensor) -> Tensor:
        """The objective from the distance.

        A scale of 1 multiplies nothing: its derivative would cost a pass over V.
        """
        return distance if self.scale == 1 else distance * self.scale

    def distance_of(self, target: Sequence[Tensor]) -> GradientDistance:
        """The distance that remembers this query's target; it notices by itself where that has changed."""
        return remembered(self.distances, target, lambda: self.make(len(target)))

    def gradient_based_loss(self, gradient_rec: Sequence[Tensor], gradient_data: Sequence[Tensor]) -> Tensor:
        """Where breaching asks for the distance of gradients; shape ()."""
        return self.finish(self.distance_of(gradient_data)(gradient_rec, gradient_data))

    def forward(
        self, model: nn.Module, gradient_data: Sequence[Tensor], candidate: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Objective and task loss, where breaching asks for both.

        Its own way, with a graph through the dummy gradient, stays for all that needs the graph.
        """
        direct = None
        if not (self.distance_only or self._needs_graph(model, candidate, labels)):
            direct = self.candidate_distance(model, gradient_data, candidate, labels)
        if direct is None:
            with PLAIN_ATTENTION:
                return super().forward(model, gradient_data, candidate, labels)
        distance, task_loss = direct(candidate, labels)
        return self.finish(distance), task_loss

    def _needs_graph(self, model: nn.Module, candidate: Tensor, labels: Tensor) -> bool:
        """Whether only breaching's own way will do.

        It is for local steps, labels that are searched too, a weighted task loss, mixed precision,
        regularisers that read features by hooks, and calls that want no gradient.
        """
        return bool(
            self.local_hyperparams is not None
            or self.cfg_impl.mixed_precision
            or self.task_regularization
            or labels.requires_grad
            or not (torch.is_grad_enabled() and candidate.requires_grad)
            or any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        )

    def candidate_distance(
        self, model: nn.Module, target: Sequence[Tensor], candidate: Tensor, labels: Tensor
    ) -> CandidateDistance | None:
        """What forms distance and gradient together for this query; None where it fails on the model.

        Raises
        ------
        NoSecondDerivativeError
            Where a layer has none, so that breaching's own way would fail, too: what to do.
        """

        def made() -> CandidateDistance | None:
            try:
                distance = self.distance_of(target)
                return CandidateDistance(model, self.loss_fn, distance, target, candidate, labels)
            except NoSecondDerivativeError:
                raise
            except Exception:  # breaching's own way then says what is wrong, or works
                return None

        known = remembered(self.candidates, target, made)
        if known is not None and not known.serves(model, target):
            del self.candidates[id(target[0])]
            known = remembered(self.candidates, target, made)
        return known

    def __repr__(self) -> str:
        name = self.options.get("type", type(self).__name__)
        return f"{name}, fused, with scale={self.scale} and task reg={self.task_regularization}"


def remembered(known: dict[int, Any], target: Sequence[Tensor], make: Callable[[], Any]) -> Any:
    """What `known` holds for this query's target; made where it holds nothing."""
    key = id(target[0])
    if key not in known:
        if len(known) >= _QUERIES:
            del known[next(iter(known))]
        known[key] = make()
    return known[key]
