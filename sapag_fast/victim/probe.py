"""One look at a network before an attack: what it gives for inputs of a shape, and which operators run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sapag_fast.victim.model import VictimModel

__all__ = ["OperatorRecorder", "Probe", "RejectedInputsError", "probe"]

_FACTORS = {"addmm": slice(1, 3), "convolution": slice(0, 2)}
"""Where the arguments of linear operators have the inputs and the weights."""
_PIECEWISE_LINEAR = ("relu", "threshold", "hardtanh", "hardsigmoid", "rrelu", "leaky_relu", "prelu")


class RejectedInputsError(ValueError):
    """The model raises on inputs of this shape."""


class OperatorRecorder(TorchDispatchMode):
    """Collects the names of the operators that run inside it, from modules and from functions alike.

    Parameters
    ----------
    weights : iterable of Tensor
        The network's parameters, or what shares their memory.

    Attributes
    ----------
    names : set of str
        "convolution with fixed weights", too, where no parameter is a factor.
    nbytes : int
        Of all that they gave, views among them.
    """

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}
        self.names: set[str] = set()
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        self.names.add(name)
        factors = args[_FACTORS[name]] if name in _FACTORS else ()
        if factors and not any(factor.untyped_storage().data_ptr() in self._weights for factor in factors):
            self.names.add(f"{name} with fixed weights")
        result = func(*args, **(kwargs or {}))
        self.nbytes += result.nbytes if isinstance(result, Tensor) and not func.is_view else 0
        return result

    @property
    def piecewise_linear(self) -> bool:
        """Whether a piecewise-linear activation (ReLU and its kin) ran."""
        return any(name.removesuffix("_") in _PIECEWISE_LINEAR for name in self.names)


@dataclass(frozen=True)
class Probe:
    """What one forward pass told.

    Attributes
    ----------
    output : Tensor
        The network's output on zeros; other models may give something else.
    piecewise_linear : bool
        Whether piecewise-linear activations ran.
    nbytes : int
        Of what the operators gave.
    operators : frozenset of str
        Names of the operators that ran, in place or not; a linear one whose weights are none of the network's
        parameters also as "convolution with fixed weights".
    """

    output: Tensor
    piecewise_linear: bool
    nbytes: int = 0
    operators: frozenset[str] = frozenset()

    @property
    def classes(self) -> int | None:
        """Number of outputs, if the network gives one vector of logits for each image."""
        output = self.output
        return output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else None


def probe(network: VictimModel, input_shape: Sequence[int], batch_size: int) -> Probe:
    """Run the network once, on zeros ``[B, *input_shape]`` of its parameters' type and device.

    Raises
    ------
    RejectedInputsError
        When the model rejects inputs of this shape; the message names ``input_shape`` and ``batch_size``.
    """
    like = next(iter(network.parameters.values()))
    try:
        zeros = torch.zeros(batch_size, *input_shape, dtype=like.dtype, device=like.device)
        with torch.no_grad(), OperatorRecorder(network.parameters.values()) as recorder:
            output = network.output(network.parameters, network.fresh_buffers(), zeros)
    except Exception as error:
        raise RejectedInputsError(
            f"input_shape {list(input_shape)} with batch_size {batch_size}: the model rejects inputs "
            f"of shape {[batch_size, *input_shape]} ({type(error).__name__}: {error})"
        ) from error
    operators = frozenset(name.removesuffix("_") for name in recorder.names)
    return Probe(output, recorder.piecewise_linear, recorder.nbytes, operators)
