"""What every way to match gradients offers to an attack, and what it tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

__all__ = [
    "FIRST_BACKWARD",
    "FORWARD",
    "REST",
    "SECOND_BACKWARD",
    "SUMS",
    "Matching",
    "StageHook",
]

FORWARD = "forward"
FIRST_BACKWARD = "first backward"
SUMS = "sums and distance"
SECOND_BACKWARD = "second backward"
REST = "the rest"
"""Stages of an evaluation, in their order: the forward includes the victim's loss, the sums all that lies
between the two passes backward. The rest begins where an evaluation ends."""

StageHook = Callable[[str], None]
"""Called with the name of each stage as it begins."""


class Matching(Protocol):
    """Distances of R recoveries and their gradients.

    Attributes
    ----------
    mode : str
        Names the implementation in results.
    stages : callable or None
        Who is told when a stage begins (`StageHook`); None: nobody, at no cost.
    """

    mode: str

    @property
    def stages(self) -> StageHook | None:
        """Who is told of stages."""
        ...

    @stages.setter
    def stages(self, stages: StageHook | None) -> None: ...

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate once.

        Parameters
        ----------
        inputs : Tensor
            ``[R, B, *input_shape]``.
        labels : Tensor
            ``[R, B, ...]`` as the loss takes them, or with joint labels their logits ``[R, B, classes]``.
        sharpness : Tensor, optional
            ``[R]``: dummy gradients come from the surrogate with this β; None: from the network itself.

        Returns
        -------
        distance : Tensor
            ``[R]``.
        input_gradient : Tensor
            dD/d inputs, shaped like `inputs`.
        label_gradient : Tensor or None
            dD/d logits, with joint labels.
        """
        ...

    def retarget(self, victims: Tensor, widths: Tensor | None = None) -> None:
        """From now on row r searches victim ``victims[r]`` (``[R]``, int64); R may change.

        With `widths` ``[R]``, float64, row r's kernel has its bandwidth times ``widths[r]``, for kinds that
        have widths (`Kind.has_widths`); None: its bandwidth, for all.
        """
        ...
