"""A loss whose gradients are searched, and what belongs to it.

How labels look, how they follow from the last layer's gradient, and what becomes of the free numbers that
stand for labels in a joint search. A callable says nothing of this: its labels must be given, unless it has
the methods of `OwnInference`. The built-in losses say all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from sapag_fast import checks as check
from sapag_fast.victim.label_inference import Evidence
from sapag_fast.victim.labels import KnownLabels

__all__ = ["LOSS_NAMES", "Loss", "OwnInference"]

LOSS_NAMES = ("cross-entropy", "bce", "mse")
"""Of the built-in losses."""

_GIVE = "give labels= a tensor"


@runtime_checkable
class OwnInference(Protocol):
    """What a loss of one's own may bring beside ``(output, labels) -> scalar``; either method will do.

    With ``infer_labels`` it takes ``labels="infer"``, with ``joint_targets`` it takes ``labels="joint"``.
    """

    def infer_labels(self, evidence: Evidence) -> Tensor:
        """Labels ``[V, B, ...]`` as the loss takes them, from the gradients of V victims."""
        ...

    def joint_targets(self, logits: Tensor) -> Tensor:
        """What the loss is given for the numbers that a joint search moves, of the network's output's shape.

        Element by element or along the last dimension, so that further leading dimensions change nothing.
        """
        ...


class Loss:
    """A loss and what belongs to it; this one is a callable that says no more.

    Attributes
    ----------
    function : callable
        ``(output, labels) -> scalar``, of one batch.
    plain : bool
        Whether it is cross-entropy without further settings, on which all certificates were measured.
    """

    plain: bool = False

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.given = function

    @property
    def function(self) -> Callable[[Tensor, Tensor], Tensor]:
        """``(output, labels) -> scalar``."""
        return self.given

    def check_output(self, output: Any) -> None:
        """Raise ValueError where the network's output ``[B, ...]`` is not one for this loss."""

    def fitted(self, labels: Tensor, output: Any) -> Tensor:
        """Given labels ``[V, B, ...]`` in the form that the loss takes.

        Raises
        ------
        ValueError
            For labels that do not fit the network's output ``[B, ...]``.
        """
        return labels

    def infer(self, evidence: Evidence) -> KnownLabels:
        """Labels ``[V, B, ...]`` from the gradients, and how sure they are.

        Raises
        ------
        ValueError
            Where they do not tell.
        """
        own = getattr(self.given, "infer_labels", None)
        if not callable(own):
            raise ValueError(f"labels: 'infer' is not known of {self._called}; {self._remedy}")
        labels = check.check_labels(
            own(evidence),
            victims=evidence.victims,
            batch_size=evidence.batch_size,
            batched=True,
            classes=None,
            device=evidence.noise.device,
        )
        return KnownLabels.alike(labels, "estimated", "by the loss's own inference")

    def joint_targets(self, logits: Tensor) -> Tensor:
        """What the loss is given for the numbers that a joint search moves."""
        own = getattr(self.given, "joint_targets", None)
        if not callable(own):
            raise ValueError(f"labels: 'joint' is not known of {self._called}; {self._remedy}")
        return cast(Tensor, own(logits))

    def joint_shape(self, output: Any) -> tuple[int, ...]:
        """Of those numbers, ``[B, ...]``.

        Raises
        ------
        ValueError
            Where labels cannot be searched jointly.
        """
        if not isinstance(output, Tensor) or output.dim() < 1:
            raise ValueError(f"labels: 'joint' needs a model whose output is a tensor [B, ...]; {_GIVE}")
        self.joint_targets(torch.zeros_like(output))
        return tuple(output.shape)

    def balanced(self, output: Tensor) -> Tensor | None:
        """The targets at which the loss has no gradient toward this output; None where that is not known."""
        return None

    def decided(self, targets: Tensor, output: Tensor) -> Tensor:
        """The labels for which the targets ``[..., B, ...]`` stand that a joint search has come to.

        Many distances do not see how long a gradient is: the targets lie on the right side of `balanced`
        then, but anywhere along the way to the true ones.
        """
        return targets

    @property
    def words(self) -> str:
        """What tells it from other losses, in words."""
        given = self.given
        return getattr(given, "__qualname__", None) or f"{type(given).__module__}.{type(given).__qualname__}"

    @property
    def _called(self) -> str:
        return f"the loss_fn {self.words}"

    @property
    def _remedy(self) -> str:
        names = ", ".join(LOSS_NAMES)
        return f"{_GIVE}, or loss_fn= one of {names} if it is that, or one with methods of OwnInference"
