"""What arithmetic says of a victim: an answer, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sapag_fast.exact.reproduce import Reproduction

__all__ = ["Answer", "DoesNotApplyError"]

_SCALED = 1e-3


class DoesNotApplyError(Exception):
    """Why no input follows by arithmetic; the message says it in a sentence's middle."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What arithmetic says of one victim.

    Attributes
    ----------
    inputs : Tensor or None
        ``[B, *input_shape]``, nan where an input leaves no trace; None where there is no answer.
    labels : Tensor or None
        ``[B, ...]``; in the order given, else ascending, inputs without a trace at the end.
    recovered : int
        Of the B inputs.
    reproduction : Reproduction or None
        Of the gradient at them.
    method : str
        How they were found.
    reason : str
        Why not (all) of them; empty where all are found and the gradient is reproduced as it is.
    doubt : str
        Why the gradient, though it is reproduced, does not confirm them; empty where it does.
    """

    inputs: Tensor | None
    labels: Tensor | None
    recovered: int
    reproduction: Reproduction | None
    method: str
    reason: str
    doubt: str = ""

    @property
    def scaled(self) -> bool:
        """Whether a client clipped or scaled its gradient."""
        return self.reproduction is not None and abs(self.reproduction.factor - 1) > _SCALED

    @property
    def whole(self) -> bool:
        """Whether every input was found."""
        return self.inputs is not None and self.recovered == len(self.inputs)

    @classmethod
    def none(cls, reason: str) -> Answer:
        """No answer."""
        return cls(None, None, 0, None, "", reason)
