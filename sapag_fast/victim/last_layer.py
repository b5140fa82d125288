"""The last linear layer: where its gradients stand, and what it does on noise images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sapag_fast.victim.model import VictimModel

__all__ = ["LastLayer", "Tried", "find_last_layer", "try_on_noise"]


@dataclass(frozen=True)
class LastLayer:
    """Where the last linear layer's gradients stand in the sequence.

    Attributes
    ----------
    weight, bias : int, int or None
        Positions; None without a bias.
    classes : int
        Rows of the weight.
    """

    weight: int
    bias: int | None
    classes: int


def find_last_layer(target: Sequence[Tensor | None], classes: int | None = None) -> LastLayer:
    """Find the last matrix in `target` (no leading recovery dimension) and the bias vector right after it.

    Raises
    ------
    ValueError
        When there is none, or it does not have `classes` rows (where given).
    """
    shapes: list[tuple[int, ...]] = [() if entry is None else tuple(entry.shape) for entry in target]
    matrices = [index for index, shape in enumerate(shapes) if len(shape) == 2]
    if not matrices:
        raise ValueError(
            "labels cannot be inferred: the target gradient holds no matrix that could be the last "
            "linear layer's weight; "
            "give labels= a tensor or 'joint'"
        )
    weight = matrices[-1]
    rows = shapes[weight][0]
    if classes is not None and rows != classes:
        raise ValueError(
            f"labels cannot be inferred: the last matrix in the target gradient (entry {weight}) has "
            f"shape {shapes[weight]}, "
            f"but the model has {classes} outputs; give labels= a tensor or 'joint'"
        )
    has_bias = weight + 1 < len(shapes) and shapes[weight + 1] == (rows,)
    return LastLayer(weight, weight + 1 if has_bias else None, rows)


@dataclass(frozen=True)
class Tried:
    """What a network gave for M noise inputs.

    Attributes
    ----------
    probabilities : Tensor
        ``[classes]``, the mean softmax output.
    features : Tensor or None
        ``[M, features]``, what entered the last linear layer; None where that is no ``nn.Linear``, or takes
        more than one row for an input.
    is_output : bool or None
        Whether the layer's output has the network's softmax; None where the layer was not seen.
    """

    probabilities: Tensor
    features: Tensor | None
    is_output: bool | None


@torch.no_grad()
def try_on_noise(network: VictimModel, name: str, noise: Tensor) -> Tried:
    """Run the network on `noise`, ``[M, *input_shape]``, and look at the layer whose weight is called `name`.

    Returns
    -------
    Tried
        In float64, on the CPU.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    holder = dict(network.module.named_modules()).get(name.rpartition(".")[0])
    hooks = []
    if isinstance(holder, nn.Linear):

        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append((inputs[0], output))

        hooks.append(holder.register_forward_hook(note))
    try:
        output = network.output(network.parameters, network.fresh_buffers(), noise)
    finally:
        for hook in hooks:
            hook.remove()
    probabilities = output.double().softmax(-1).cpu()
    if not seen:
        return Tried(probabilities.mean(0), None, None)
    inputs, result = (tensor.double().cpu() for tensor in seen[-1])
    same = result.shape == probabilities.shape and len(seen) == 1
    # A LogSoftmax behind the layer changes nothing for cross-entropy.
    is_output = same and torch.allclose(result.softmax(-1), probabilities, rtol=1e-3, atol=1e-5)
    return Tried(probabilities.mean(0), inputs if inputs.dim() == 2 else None, is_output)
