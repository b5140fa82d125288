"""One recovery after the other, by plain autograd."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sapag_fast.victim.problem import Problem, rebuilt

__all__ = ["SequentialMatching", "SingleMatching"]


class _ConvolutionWork(TorchDispatchMode):
    """The largest number of multiplications in one convolution that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.largest = max(self.largest, result.numel() * args[1][0].numel())
        return result


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


class SingleMatching:
    """One recovery, by plain autograd.

    ``small_convolutions`` tells that no convolution is worth oneDNN's set-up: for one image on a LeNet
    PyTorch's own kernels take half the time.
    """

    mode = "single"
    reason = ""
    small_work = 1_000_000

    def __init__(self, problem: Problem, victim: int = 0) -> None:
        self.problem = problem
        self.distance = rebuilt(problem.distance, batched=False)
        self.retarget(torch.tensor([victim]))
        self.small_convolutions = False

    def retarget(self, victims: Tensor) -> None:
        victim = int(victims[0])
        self.target = [None if entry is None else entry[victim] for entry in self.problem.targets]

    def measure_convolutions(self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None) -> None:
        """Evaluate once, and see whether the convolutions are small."""
        with _ConvolutionWork() as work:
            self.value_and_gradient(inputs, labels, sharpness)
        one_image = inputs.shape[:2] == (1, 1) and inputs.device.type == "cpu"
        self.small_convolutions = one_image and 0 < work.largest <= self.small_work

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        leaves = self.problem.leaves(inputs[0], labels[0])
        with _without_onednn() if self.small_convolutions else contextlib.nullcontext():
            gradients = self.problem.gradients(*leaves, None if sharpness is None else sharpness[0])
            value, toward_inputs, toward_labels = self.problem.pull_back(
                self.distance, gradients, self.target, leaves
            )
        return value[None], toward_inputs[None], None if toward_labels is None else toward_labels[None]


class SequentialMatching:
    """One recovery after the other: works for every module, gains nothing from the batch."""

    mode = "sequential"
    reason = ""

    def __init__(self, problem: Problem) -> None:
        # One distance for each victim: each caches its own target's sums.
        self.victims = [SingleMatching(problem, victim) for victim in range(problem.victims)]
        self.retarget(problem.rows())

    def retarget(self, victims: Tensor) -> None:
        self.row_victims = victims.tolist()

    def measure_convolutions(self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None) -> None:
        """Evaluate the first recovery, and see whether the convolutions are small."""
        first = self.victims[self.row_victims[0]]
        first.measure_convolutions(inputs[:1], labels[:1], None if sharpness is None else sharpness[:1])
        for victim in self.victims:
            victim.small_convolutions = first.small_convolutions

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        results = [
            self.victims[victim].value_and_gradient(
                inputs[r : r + 1], labels[r : r + 1], None if sharpness is None else sharpness[r : r + 1]
            )
            for r, victim in enumerate(self.row_victims)
        ]
        values, toward_inputs, toward_labels = zip(*results, strict=True)
        joint = toward_labels[0] is not None
        return torch.cat(values), torch.cat(toward_inputs), torch.cat(toward_labels) if joint else None
