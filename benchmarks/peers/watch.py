"""How many evaluations a search takes until one of its iterates is a success, which the truth alone tells.

Runs that are timed are not watched: the same searches run once more for it.
"""

from __future__ import annotations

from torch import Tensor

from benchmarks.shared.victims import SUCCESS

__all__ = ["Watch", "error"]


def error(image: Tensor, truth: Tensor) -> float:
    """Mean squared error of the image ``[C, H, W]`` clamped to [0, 1]; 1, the worst, where not finite."""
    if not image.isfinite().all():
        return 1.0
    return (image.double().clamp(0, 1) - truth.double()).square().mean().item()


class Watch:
    """Told of every evaluation of one victim's search, in turn.

    Attributes
    ----------
    success_at : int or None
        The first evaluation, from 1 on, at an iterate with a success's error.
    """

    def __init__(self, truth: Tensor) -> None:
        self.truth = truth
        self.evaluations = 0
        self.success_at: int | None = None

    def look(self, image: Tensor) -> None:
        """The next evaluation is at this image ``[C, H, W]``."""
        # What follows the first success no longer matters.
        self.note(error(image, self.truth) if self.success_at is None else 0.0)

    def note(self, mse: float) -> None:
        """The next evaluation is at an image of this error."""
        self.evaluations += 1
        if self.success_at is None and mse < SUCCESS:
            self.success_at = self.evaluations
