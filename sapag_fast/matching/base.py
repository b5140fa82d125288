"""What every way to match gradients offers to the attack."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["Matching"]


class Matching(Protocol):
    """Distances of R recoveries and their gradients.

    ``mode`` names the implementation in results, ``reason`` why it is not a faster one (empty for the
    fastest).
    """

    mode: str
    reason: str

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

    def retarget(self, victims: Tensor) -> None:
        """From now on row r searches victim ``victims[r]`` (``[R]``, int64); R may change."""
