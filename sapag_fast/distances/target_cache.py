"""What a distance keeps of its target between calls."""

from dataclasses import dataclass

from torch import Tensor

from sapag_fast.distances.evaluation import BoundDistance


@dataclass
class KnownTarget:
    """A target as it was given, and what follows from it alone.

    Attributes
    ----------
    given : list of (Tensor or None)
        The very tensors.
    versions : list of int
        Of the tensors that are present; empty where they have none (in inference mode, in transforms).
    present : list of Tensor
        Those that are present, without their graph.
    bound : BoundDistance
        The distance for this target's layers.
    sums : Tensor or None
        The target's sums, float64 ``[R or 1, L, 3]``, from the first evaluation on.
    """

    given: list[Tensor | None]
    versions: list[int]
    present: list[Tensor]
    bound: BoundDistance
    sums: Tensor | None = None

    def is_still(self, target: list[Tensor | None]) -> bool:
        """Whether these are the very same tensors, and nobody has written to them."""
        if len(target) != len(self.given) or len(self.versions) != len(self.present):
            return False
        versions = iter(self.versions)
        for tensor, old in zip(target, self.given, strict=True):
            if tensor is not old or (tensor is not None and tensor._version != next(versions)):
                return False
        return True

    def remember(self, sums: Tensor | None) -> None:
        """Keep the target's sums, where an evaluation had to compute them."""
        if sums is not None:
            self.sums = sums
