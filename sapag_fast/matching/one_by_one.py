"""One recovery after the other, by plain autograd: right for every module that autograd bears."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sapag_fast.matching.base import FIRST_BACKWARD, FORWARD, REST, SECOND_BACKWARD, SUMS, StageHook
from sapag_fast.victim.problem import Problem, rebuilt

__all__ = ["SequentialMatching", "SingleMatching"]

_SMALL_WORK = 1_000_000
"""Multiplications up to which PyTorch's own kernels beat oneDNN at the convolutions of one image."""


class SingleMatching:
    """One recovery, by plain autograd.

    Parameters
    ----------
    problem : Problem
        Network, loss, targets, distance.
    victim : int
        Whose target is matched.

    Attributes
    ----------
    mode : str
    stages : callable or None
        As of `Matching`.
    small_convolutions : bool
        Whether no convolution is worth oneDNN's set-up: for one image on a LeNet PyTorch's own kernels take
        half the time.
    """

    mode = "single"

    def __init__(self, problem: Problem, victim: int = 0) -> None:
        self.problem = problem
        self.distances = {1.0: rebuilt(problem.distance, batched=False)}
        self.stages: StageHook | None = None
        self.small_convolutions = False
        self.retarget(torch.tensor([victim]))

    def retarget(self, victims: Tensor, widths: Tensor | None = None) -> None:
        """From now on search ``victims[0]``, as `Matching` says, with R = 1."""
        victim = int(victims[0])
        self.widen(1.0 if widths is None else float(widths[0]))
        self.target = [None if entry is None else entry[victim] for entry in self.problem.targets]

    def widen(self, width: float) -> None:
        """From now on the kernel has its bandwidth times `width`: a distance with a cache of its own."""
        if width not in self.distances:
            plain = self.distances[1.0]
            self.distances[width] = plain.copy(bandwidth=plain.bandwidth * width)
        self.distance = self.distances[width]

    def measure_convolutions(self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None) -> None:
        """Evaluate once, and see whether the convolutions are small."""
        with _ConvolutionWork() as work:
            self.value_and_gradient(inputs, labels, sharpness)
        one_image = inputs.shape[:2] == (1, 1) and inputs.device.type == "cpu"
        self.small_convolutions = one_image and 0 < work.largest <= _SMALL_WORK

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate once, as `Matching` says, with R = 1."""
        stages = self.stages
        if stages is not None:
            stages(FORWARD)
        leaves = self.problem.leaves(inputs[0], labels[0])
        with _WITHOUT_ONEDNN if self.small_convolutions else contextlib.nullcontext():
            gradients = self.problem.gradients(
                leaves[0],
                leaves[1],
                None if sharpness is None else sharpness[0],
                on_loss=None if stages is None else partial(stages, FIRST_BACKWARD),
            )
            value, toward_inputs, toward_labels = self._match(gradients, leaves)
        if stages is not None:
            stages(REST)
        return value[None], toward_inputs[None], None if toward_labels is None else toward_labels[None]

    def _match(
        self, gradients: Sequence[Tensor | None], leaves: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Distance of the dummy gradient, and its gradients toward inputs and joint labels."""
        stages = self.stages
        if stages is not None:
            stages(SUMS)
        dummy = [
            None if target is None else torch.zeros_like(target) if gradient is None else gradient.detach()
            for gradient, target in zip(gradients, self.target, strict=True)
        ]
        value, weights = self.distance.distance_and_gradient(dummy, self.target)
        if stages is not None:
            stages(SECOND_BACKWARD)
        roots = [
            (gradient, weight)
            for gradient, weight in zip(gradients, weights, strict=True)
            if weight is not None and gradient is not None and gradient.requires_grad
        ]
        joint = self.problem.joint
        toward: tuple[Tensor | None, ...] = (None,)
        if roots:
            outputs, flows = zip(*roots, strict=True)
            toward = torch.autograd.grad(outputs, leaves if joint else leaves[:1], flows, allow_unused=True)
        if toward[0] is None:
            raise ValueError("model: its gradient does not depend on its input: nothing to recover from")
        if not joint:
            return value, toward[0], None
        return value, toward[0], torch.zeros_like(leaves[1]) if toward[1] is None else toward[1]


class SequentialMatching:
    """One recovery after the other: works for every module, gains nothing from the batch.

    Parameters
    ----------
    problem : Problem
        Network, loss, targets, distance.

    Attributes
    ----------
    mode : str
        As of `Matching`.
    victims : list of SingleMatching
        V, by victim.
    """

    mode = "sequential"

    def __init__(self, problem: Problem) -> None:
        # One distance for each victim: each caches its own target's sums.
        self.victims = [SingleMatching(problem, victim) for victim in range(problem.victims)]
        self.retarget(problem.rows())

    @property
    def stages(self) -> StageHook | None:
        """Who is told when a stage of a recovery's evaluation begins, as of `Matching`."""
        return self.victims[0].stages

    @stages.setter
    def stages(self, stages: StageHook | None) -> None:
        for victim in self.victims:
            victim.stages = stages

    def retarget(self, victims: Tensor, widths: Tensor | None = None) -> None:
        """From now on row r searches victim ``victims[r]``, as `Matching` says; R may change."""
        self.row_victims = victims.tolist()
        self.row_widths = [1.0] * len(self.row_victims) if widths is None else widths.tolist()

    def measure_convolutions(self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None) -> None:
        """Evaluate the first recovery, and see whether the convolutions are small."""
        first = self.victims[self.row_victims[0]]
        first.measure_convolutions(inputs[:1], labels[:1], None if sharpness is None else sharpness[:1])
        for victim in self.victims:
            victim.small_convolutions = first.small_convolutions

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluate every recovery once, as `Matching` says."""
        results = []
        for r, (victim, width) in enumerate(zip(self.row_victims, self.row_widths, strict=True)):
            single, own = self.victims[victim], slice(r, r + 1)
            single.widen(width)
            sharp = None if sharpness is None else sharpness[own]
            results.append(single.value_and_gradient(inputs[own], labels[own], sharp))
        values, toward_inputs, toward_labels = zip(*results, strict=True)
        joint = toward_labels[0] is not None
        return torch.cat(values), torch.cat(toward_inputs), torch.cat(toward_labels) if joint else None


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


class _WithoutOneDNN:
    """oneDNN's convolutions switched off for as long as any thread is inside: the switch is the process's."""

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, True

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = torch.backends.mkldnn.enabled
                torch.backends.mkldnn.enabled = False
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                torch.backends.mkldnn.enabled = self.before


_WITHOUT_ONEDNN = _WithoutOneDNN()
