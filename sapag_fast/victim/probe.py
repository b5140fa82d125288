"""One look at a model before an attack: what it gives for inputs of a shape, and which operators run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sapag_fast.victim.problem import Problem

__all__ = ["OperatorRecorder", "checked_trial", "classes_of", "trial"]


def trial(
    problem: Problem, input_shape: Sequence[int], batch_size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, OperatorRecorder]:
    """One forward on zeros ``[B, *input_shape]``. Raises whatever the model raises."""
    zeros = torch.zeros(batch_size, *input_shape, dtype=dtype, device=device)
    with torch.no_grad(), OperatorRecorder() as recorder:
        return problem.output(problem.parameters, problem.fresh_buffers(), zeros), recorder


def checked_trial(
    problem: Problem, input_shape: Sequence[int], batch_size: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, OperatorRecorder]:
    """`trial`, with an error that names the arguments ``input_shape`` and ``batch_size``.

    Raises
    ------
    ValueError
        When the model rejects inputs of this shape.
    """
    try:
        return trial(problem, input_shape, batch_size, dtype, device)
    except Exception as error:
        raise ValueError(
            f"input_shape {list(input_shape)} with batch_size {batch_size}: the model rejects inputs "
            f"of shape {[batch_size, *input_shape]} ({type(error).__name__}: {error})"
        ) from error


def classes_of(output: object) -> int | None:
    """Number of outputs, if the model gives one vector of logits for each image."""
    return output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else None


_KINKED = ("relu", "threshold", "hardtanh", "hardsigmoid", "rrelu", "leaky_relu", "prelu")


class OperatorRecorder(TorchDispatchMode):
    """Collects the names of the operators that run inside it, whether they come from modules or from
    functions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    @property
    def piecewise_linear(self) -> bool:
        """Whether an activation with a kink (ReLU and its kin) ran."""
        return any(name.removesuffix("_") in _KINKED for name in self.names)
