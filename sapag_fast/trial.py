"""One look at a model before an attack: what it gives for inputs of a shape, and which operators run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sapag_fast.problem import Problem
from sapag_fast.recipes import OperatorRecorder

__all__ = ["checked_trial", "classes_of", "trial"]


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
