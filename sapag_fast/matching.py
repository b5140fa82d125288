"""Where an attack's distance and its gradient toward the inputs come from.

Every implementation forms the dummy gradient of each recovery with an autograd graph toward the inputs, asks
the fused distance for its value and for V = dD/d(dummy gradient) outside of autograd, and sends V back
through the graph as ``grad_outputs``, toward the inputs alone. They differ in how the dummy gradients of R
recoveries are formed; the attack sees only `Matching`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sapag_fast.explicit import ExplicitMatching, explicit_or_reason
from sapag_fast.memory import is_out_of_memory
from sapag_fast.problem import Problem, rebuilt

__all__ = ["Matching", "SequentialMatching", "SingleMatching", "VmapMatching", "choose_matching"]


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


class _BatchedDistance(torch.autograd.Function):
    """Distance and V of one recovery as seen inside ``vmap``; its rule calls the fused operator once, for all
    of them.
    """

    @staticmethod
    def forward(evaluate: Callable, *dummy: Tensor) -> tuple[Tensor, ...]:
        value, weights = evaluate([gradient[None] for gradient in dummy])
        return value[0], *(weight[0] for weight in weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Nothing to keep: V is handed over as a constant."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, evaluate: Callable, *dummy: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        rows = [
            gradient.expand(info.batch_size, *gradient.shape) if dim is None else gradient.movedim(dim, 0)
            for gradient, dim in zip(dummy, in_dims[1:], strict=True)
        ]
        value, weights = evaluate(rows)
        return (value, *weights), (0,) * (1 + len(weights))


class VmapMatching:
    """All recoveries at once, by ``torch.func.vmap``.

    Weights are shared, so the forward and the gradients toward activations run as one large batch; only the
    weights' gradients become grouped operations. The way back to the inputs is a ``vjp`` inside of ``vmap``:
    plain autograd around it would differentiate what vmap has decomposed normalisation layers into, where
    their saved means count as constants, and the result would be silently wrong.
    """

    mode = "vmap"
    reason = ""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.distance = rebuilt(problem.distance, batched=True)
        self.retarget(problem.rows())
        self.matched = [index for index, entry in enumerate(self.targets) if entry is not None]
        self.parameters = {name: p.detach() for name, p in problem.parameters.items()}
        buffer_dims = 0 if problem.writes_buffers else None
        self.functions = {
            smooth: torch.func.vmap(
                self._one, in_dims=(buffer_dims, 0, 0, 0 if smooth else None), randomness="different"
            )
            for smooth in (False, True)
        }

    def retarget(self, victims: Tensor) -> None:
        self.targets = self.problem.targets_of(victims)

    def _evaluate(self, dummy: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        full: list[Tensor | None] = [None] * len(self.targets)
        for index, gradient in zip(self.matched, dummy, strict=True):
            full[index] = gradient
        value, weights = self.distance.distance_and_gradient(full, self.targets)
        return value, [weights[index] for index in self.matched]

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        inputs: Tensor,
        labels: Tensor,
        sharpness: Tensor | None,
    ) -> Tensor:
        if self.problem.writes_buffers:
            # Cloned at this level, where writing to them is allowed.
            buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        return self.problem.loss(parameters, buffers, inputs, labels, sharpness)

    def _one(
        self, buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor, sharpness: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Distance and its gradients of one recovery."""

        def gradients(*leaves: Tensor) -> tuple[Tensor, ...]:
            inputs, known = leaves if self.problem.joint else (*leaves, labels)
            slope = torch.func.grad(self._loss)
            by_name = self.problem.over_local_steps(
                lambda parameters: slope(parameters, buffers, inputs, known, sharpness), self.parameters
            )
            found = tuple(by_name.values())
            return tuple(found[index] for index in self.matched)

        leaves = (inputs, labels) if self.problem.joint else (inputs,)
        dummy, pull = torch.func.vjp(gradients, *leaves)
        value, *weights = _BatchedDistance.apply(self._evaluate, *dummy)
        return value, *pull(tuple(weights))

    def value_and_gradient(
        self, inputs: Tensor, labels: Tensor, sharpness: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        buffers = self.problem.buffers
        if self.problem.writes_buffers:
            # Each recovery writes to its own copy, so none sees another's running statistics.
            buffers = {name: b.expand(inputs.shape[0], *b.shape) for name, b in buffers.items()}
        function = self.functions[sharpness is not None]
        value, toward_inputs, *toward_labels = function(buffers, inputs.detach(), labels.detach(), sharpness)
        return value, toward_inputs, toward_labels[0] if toward_labels else None


_MANY_PARAMETERS = 1_000_000
"""From here on explicit mode may pay for one recovery alone: it saves passes over the weights' gradients."""


def choose_matching(
    problem: Problem,
    inputs: Tensor,
    labels: Tensor,
    victims: Tensor | None = None,
    *,
    recoveries: int | None = None,
    sharpness: Tensor | None = None,
) -> Matching:
    """The fastest way that is right on these first `inputs`.

    Several recoveries: `explicit` if it covers the model and agrees with autograd, else `vmap` if the module
    bears it, else `sequential`. One: `single`, unless the network is large and `explicit` need not form most
    of its weights' gradients.

    Parameters
    ----------
    victims : Tensor, optional
        ``[R]``, int64: row r searches ``victims[r]``; None: the problem's own order.
    recoveries : int, optional
        How many there will be at once; None: R.
    sharpness : Tensor, optional
        ``[R]``, where the searches go through the surrogate: what is tried is the surrogate then.
    """
    victims = problem.rows() if victims is None else victims
    sequential = SequentialMatching(problem)
    sequential.retarget(victims)
    # One recovery alone: whatever is wrong with the module or its loss shows here, and not as a failure of
    # vmap.
    sequential.measure_convolutions(inputs, labels, sharpness)
    single = sequential.victims[0] if inputs.shape[0] == problem.victims == 1 else None
    if single is not None and problem.parameters_count < _MANY_PARAMETERS:
        return single
    explicit = explicit_or_reason(
        problem,
        inputs,
        labels,
        SequentialMatching,
        victims=victims,
        recoveries=recoveries,
        sharpness=sharpness,
    )
    if isinstance(explicit, ExplicitMatching) and (single is None or explicit.formed_share < 0.5):
        return explicit
    reason = explicit if isinstance(explicit, str) else "one recovery, whose gradients are best formed"
    if single is not None:
        single.reason = reason
        return single
    matching = VmapMatching(problem)
    matching.reason = sequential.reason = reason
    try:
        matching.retarget(victims)
        matching.value_and_gradient(inputs, labels, sharpness)
    # What vmap cannot batch shows in many ways: data-dependent control flow, .item(), in-place writes,
    # missing rules.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        sequential.reason += f"; vmap fails on it ({type(error).__name__})"
        return sequential
    return matching
