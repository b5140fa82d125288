"""Labels from the gradient of the last linear layer, for cross-entropy on logits.

The bias gradient of the last layer is the mean over the batch of p - y, with p the softmax output and y the
one-hot label. With one image exactly the label's entry is negative (iDLG: Zhao, Mopuri, Bilen 2020). With B
images n_c = B (mean p_c - gradient_c) holds exactly; mean p is not known. The weight's gradient is the mean
of (p - y) h with h the features, so its rows over the bias's entries, weighted by their size, are a mean of
the batch's own features, and p there comes close to mean p (in the manner of Ma et al. 2023). Without a bias,
or where the last matrix does not make the output, the mean output on noise images stands in (Geng et al.
2021). Classes with a negative entry occur at least once (Yin et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sapag_fast.victim.model import VictimModel

__all__ = ["LastLayer", "find_last_layer", "infer_labels", "label_counts", "mean_probabilities"]


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


def label_counts(error: Tensor, batch_size: int, probabilities: Tensor) -> Tensor:
    """How often each class occurs, from the mean of p - y over the batch.

    Parameters
    ----------
    error : Tensor
        ``[..., classes]``, the last bias's gradient (or an estimate of it).
    batch_size : int
        B, the number of images.
    probabilities : Tensor
        ``[classes]`` or ``[..., classes]``, an estimate of the mean softmax output.

    Returns
    -------
    Tensor
        ``[..., classes]``, int64, non-negative, each row with sum B: the real-valued estimate B (p - error),
        at least 1 where the error is negative, rounded by largest remainder.
    """
    estimate = (batch_size * (probabilities - error)).double()
    certain = (error < 0).to(torch.float64)
    # More negative entries than images cannot come from a plain gradient (a defended one, say): keep the
    # strongest.
    rank = error.argsort(-1).argsort(-1)
    certain = torch.where(rank < batch_size, certain, 0.0)
    counts = torch.maximum(estimate.floor().clamp(min=0.0), certain)
    for _ in range(batch_size * error.shape[-1]):
        missing = batch_size - counts.sum(-1, keepdim=True)
        if not missing.any():
            break
        remainder = estimate - counts
        grow = nn.functional.one_hot(remainder.argmax(-1), error.shape[-1])
        spare = torch.where(counts > certain, remainder, torch.inf)
        shrink = nn.functional.one_hot(spare.argmin(-1), error.shape[-1])
        counts = counts + torch.where(missing > 0, grow, torch.where(missing < 0, -shrink, 0))
    return counts.long()


@torch.no_grad()
def mean_probabilities(network: VictimModel, name: str, noise: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Try the network on `noise` inputs.

    The features are what enters the ``nn.Linear`` whose weight is the parameter called `name`; with no such
    module the sum is nan.

    Returns
    -------
    probabilities : Tensor
        ``[classes]``, the mean softmax output.
    features : Tensor
        ``[]``, the mean sum of the last layer's features.
    is_output : bool
        Whether the last layer's output is the network's.
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
    features = seen[-1][0].sum(-1).mean() if seen else output.new_full((), torch.nan)
    return output.softmax(-1).mean(0), features, bool(seen) and torch.equal(seen[-1][1], output)


@torch.no_grad()
def _probabilities_at_the_mean(
    weight_gradient: Tensor, bias_gradient: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Softmax output ``[V, classes]`` at the batch's mean features, as the last layer's gradients tell them.

    With w_c = sign(bias gradient_c) the sum of w_c times the weight gradient's rows is a sum of the images'
    features, whose factors add up to the sum of w_c times the bias's: features of either sign will do.
    """
    signs = bias_gradient.sign()[:, None]
    features = (signs @ weight_gradient)[:, 0] / bias_gradient.abs().sum(-1, keepdim=True)
    # Each victim's product on its own: of one for all, a row may follow from how many there are.
    logits = torch.bmm(features[:, None], weight.t().expand(len(features), -1, -1))[:, 0]
    return (logits + bias).softmax(-1)


def infer_labels(
    network: VictimModel,
    target: Sequence[Tensor | None],
    *,
    batch_size: int,
    noise: Tensor,
    classes: int | None = None,
    local_steps: int = 1,
) -> Tensor:
    """Labels of every recovery, in ascending order within a batch.

    Parameters
    ----------
    network : VictimModel
        The victim's network.
    target : sequence of Tensor or None
        ``[V, *parameter shape]``, the target gradients.
    batch_size : int
        Images behind each gradient, B.
    noise : Tensor
        ``[M, *input_shape]``, inputs on which the network is tried for B > 1, and its mean output estimated
        where the gradient does not tell it.
    classes : int, optional
        The number of outputs, for the check.
    local_steps : int
        Steps whose gradients `target` sums.

    Returns
    -------
    Tensor
        ``[V, B]``, int64.

    Raises
    ------
    ValueError
        When there is no last linear layer, or its gradient is not one of cross-entropy (no negative entry).
    """
    layer = find_last_layer([None if entry is None else entry[0] for entry in target], classes)
    weight = target[layer.weight]
    bias = target[layer.bias] if layer.bias is not None else None
    assert weight is not None
    # Without a bias the row sums of the weight's gradient are (p - y) times the sum of the features:
    # non-negative after a sigmoid or ReLU, so the signs stand.
    error = (bias if bias is not None else weight.sum(-1)) / local_steps
    lowest, labels = error.min(-1)
    if not bool((lowest < 0).all()):
        worst = int((lowest >= 0).nonzero()[0])
        raise ValueError(
            "labels cannot be inferred: no entry of the last layer's gradient is negative"
            f"{f' (recovery {worst})' if error.shape[0] > 1 else ''}, so it does not look like "
            f"cross-entropy's; "
            "give labels= a tensor or 'joint'"
        )
    if batch_size == 1:
        return labels[:, None]
    name = network.names[layer.weight]
    probabilities, features, is_output = mean_probabilities(network, name, noise)
    if layer.bias is not None and bias is not None and is_output:
        matrix, vector = (network.parameters[network.names[at]] for at in (layer.weight, layer.bias))
        probabilities = _probabilities_at_the_mean(weight, bias, matrix, vector)
    if bias is None:
        if not bool(features > 0):
            raise ValueError(
                "labels of a batch cannot be inferred: the last layer has no bias and the sum of its "
                "features is not "
                "positive on noise inputs; give labels= a tensor or 'joint'"
            )
        error = error / features
    counts = label_counts(error, batch_size, probabilities)
    return torch.stack(
        [torch.arange(layer.classes, device=row.device).repeat_interleave(row) for row in counts]
    )
