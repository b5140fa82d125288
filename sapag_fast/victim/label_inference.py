"""Labels of the built-in losses from the gradient of the last linear layer.

Let the layer's input be h and its output o = W h + b, the network's output. The gradient of its bias is the
loss's gradient e toward o (of a batch: the sum over its inputs), that of its weight is e hᵀ. For one input
behind the gradient both factors are known, and with them the output itself, h = (weight's gradient)ᵀ e / eᵀe.
So real targets follow without a search (mse: y = o - K e / 2 for K outputs), and classes whatever the
smoothing and the weights: the one whose loss has that gradient. Where that cannot be had, signs tell: binary
cross-entropy has e of the sign of (output's probability - target), cross-entropy's only negative entry is the
label's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.victim.label_counts import label_counts
from sapag_fast.victim.labels import KnownLabels, infer_labels
from sapag_fast.victim.last_layer import LastLayer, find_last_layer
from sapag_fast.victim.model import VictimModel

__all__ = ["Evidence", "class_labels", "real_labels", "yes_or_no_labels"]

_OTHERWISE = "give labels= a tensor or 'joint'"
_FITS = 1e-3  # of two directions' cosine, and of targets
_EXACT = 1e-3  # of a gradient's relative difference from the one that its labels give
_UNSCALED = "the gradient is taken for that of the mean: none tells its own scale"
_SIGNS = "an output's label follows from a sign, and a gradient of another sign or scale is not told"
_COUNTED = "counts follow from an estimate of the mean output, for a gradient of the mean"
_UNLIKE = "the layer's own output does not give this gradient: other weights, or another loss"
_ROUNDS = 30  # for the weight of a batch, which its own labels decide


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known where labels are inferred.

    Attributes
    ----------
    network : VictimModel
        The victims' network.
    target : sequence of Tensor or None
        ``[V, *parameter shape]``, the target gradients.
    output : Tensor
        ``[B, ...]``, the network's output on zeros.
    noise : Tensor
        ``[M, *input_shape]``, inputs on which the network may be tried.
    local_steps : int
        Steps whose gradients `target` sums.
    """

    network: VictimModel
    target: Sequence[Tensor | None]
    output: Tensor
    noise: Tensor
    local_steps: int = 1

    @property
    def batch_size(self) -> int:
        """B."""
        return self.output.shape[0]

    @property
    def victims(self) -> int:
        """V."""
        return next(entry.shape[0] for entry in self.target if entry is not None)

    def last_layer(self) -> LastLayer:
        """Find the last linear layer.

        Raises
        ------
        ValueError
            Where there is none with as many rows as the network has outputs for an input.
        """
        if not isinstance(self.output, Tensor) or self.output.dim() not in (1, 2):
            found = list(self.output.shape) if isinstance(self.output, Tensor) else type(self.output).__name__
            raise ValueError(
                f"labels cannot be inferred: they need a model whose output is [B, outputs], found {found}; "
                "give labels= a tensor"
            )
        outputs = self.output[0].numel()
        return find_last_layer([None if entry is None else entry[0] for entry in self.target], outputs)

    def gradients(self, layer: LastLayer) -> tuple[Tensor, Tensor | None]:
        """Of its weight ``[V, K, features]`` and of its bias ``[V, K]``, per local step."""
        weight, bias = self.target[layer.weight], None if layer.bias is None else self.target[layer.bias]
        assert weight is not None
        return weight / self.local_steps, None if bias is None else bias / self.local_steps

    @torch.no_grad()
    def on_noise(self, layer: LastLayer) -> tuple[Tensor, Tensor] | None:
        """The layer's input and output on noise, ``[M, ...]``; None where it does not make the output."""
        name = self.network.names[layer.weight].rpartition(".")[0]
        holder = dict(self.network.module.named_modules()).get(name)
        if not isinstance(holder, nn.Linear):
            return None
        seen: list[tuple[Tensor, Tensor]] = []

        def note(module: nn.Module, inputs: tuple[Tensor, ...], made: Tensor) -> None:
            seen.append((inputs[0], made))

        hook = holder.register_forward_hook(note)
        try:
            output = self.network.output(self.network.parameters, self.network.fresh_buffers(), self.noise)
        finally:
            hook.remove()
        if not seen or seen[-1][1].numel() != output.numel():
            return None
        features, made = seen[-1]
        return (features, made) if torch.equal(made.reshape(output.shape), output) else None

    @torch.no_grad()
    def output_of_one(self, layer: LastLayer) -> Tensor | None:
        """The network's output ``[V, K]`` on the one input behind each gradient, where the layer tells it."""
        weight, bias = self.gradients(layer)
        if bias is None or self.batch_size > 1 or self.local_steps > 1 or self.on_noise(layer) is None:
            return None
        matrix, vector = (self.network.parameters[self.network.names[layer.weight + k]] for k in (0, 1))
        squares = bias.double().square().sum(-1, keepdim=True)
        features = (bias.double()[:, None] @ weight.double())[:, 0] / squares
        # Each victim's product on its own: of one for all, a row may follow from how many there are.
        logits = torch.bmm(features[:, None], matrix.double().t().expand(len(features), -1, -1))[:, 0]
        return torch.where(squares > 0, logits + vector.double(), torch.nan)


def real_labels(evidence: Evidence) -> KnownLabels:
    """Targets of the mean squared error, ``[V, *output shape]``, for one input behind each gradient.

    They take the gradient for that of the mean over the outputs, unscaled: no gradient tells its own scale.

    Raises
    ------
    ValueError
        Where the last layer does not tell them.
    """
    layer = evidence.last_layer()
    output, (_, bias) = evidence.output_of_one(layer), evidence.gradients(layer)
    if output is None or bias is None:
        raise ValueError(
            "labels of mse cannot be inferred: that takes one input behind the gradient (batch_size 1), one "
            "local step, and a model whose output is its last linear layer's, with a bias; "
            f"{_OTHERWISE}"
        )
    targets = torch.where(bias == 0, output, output - layer.classes * bias.double() / 2)
    _check_known(targets)
    return KnownLabels.alike(_shaped(targets, evidence), "estimated", _UNSCALED)


def yes_or_no_labels(evidence: Evidence, pos_weight: Sequence[float] | None = None) -> KnownLabels:
    """Targets 0 and 1 of binary cross-entropy with logits, ``[V, *output shape]``.

    Raises
    ------
    ValueError
        Where the last layer does not tell them.
    """
    layer = evidence.last_layer()
    weight, error = evidence.gradients(layer)
    seen = evidence.on_noise(layer)
    if seen is None:
        raise ValueError(
            "labels of bce cannot be inferred: the model's output is not that of its last linear layer; "
            f"{_OTHERWISE}"
        )
    if evidence.batch_size > 1:
        if layer.classes > 1 or error is None:
            raise ValueError(
                "labels of bce cannot be inferred for several inputs behind one gradient, unless there is "
                f"one output and a bias: found {layer.classes} outputs"
                f"{'' if error is not None else ', no bias'}; {_OTHERWISE}"
            )
        counted = _counted(error, seen[1], evidence.batch_size, pos_weight)
        return KnownLabels.alike(_shaped(counted, evidence), "estimated", _COUNTED)
    if error is None:
        if bool((seen[0] < 0).any()):
            raise ValueError(
                "labels of bce cannot be inferred: the last layer has no bias, and its features are of "
                f"either sign; {_OTHERWISE}"
            )
        error = weight.sum(-1)
    if bool((error == 0).any()):
        raise ValueError(f"labels of bce cannot be inferred: an output's gradient is exactly 0; {_OTHERWISE}")
    targets = (error < 0).double()
    output = evidence.output_of_one(layer)
    known = KnownLabels.alike(_shaped(targets, evidence), "estimated", _SIGNS)
    if output is None:
        return known
    likely, yes = output.sigmoid(), 1.0
    if pos_weight is not None:
        yes = error.new_tensor(pos_weight, dtype=torch.float64)
    ideal = (likely * (1 - targets) - yes * (1 - likely) * targets) / layer.classes
    return known.sure_where(_alike(error.double(), ideal, torch.finfo(error.dtype).eps))


def _counted(error: Tensor, logits: Tensor, batch_size: int, pos_weight: Sequence[float] | None) -> Tensor:
    """0 and 1 ``[V, B]`` in ascending order, of as many ones as the batch's one output tells.

    With p the network's mean probability and w the weight of a yes, e = p (1 - y) - w (1 - p) y for y the
    share of ones; a share of 0 or 1 has a gradient of one sign only.
    """
    weight = 1.0 if pos_weight is None else pos_weight[0]
    likely = logits.double().sigmoid().mean()
    share = (likely - error.double()) / (likely + weight * (1 - likely))
    ones = (batch_size * share).round()
    least, most = (error < 0).to(ones), batch_size - (error > 0).to(ones)
    ones = torch.minimum(torch.maximum(ones, least), most)
    return (torch.arange(batch_size, device=ones.device) >= batch_size - ones).double()


def class_labels(
    evidence: Evidence, smoothing: float = 0.0, class_weights: Sequence[float] | None = None
) -> KnownLabels:
    """Classes of cross-entropy, ``[V, B]``, int64, in ascending order within a batch.

    Raises
    ------
    ValueError
        Where the last layer does not tell them.
    """
    layer = evidence.last_layer()
    if evidence.output.dim() != 2:
        raise ValueError(
            "labels cannot be inferred: cross-entropy needs a model whose output is [B, classes], found "
            f"{list(evidence.output.shape)}; give labels= a tensor"
        )
    one_weighted = evidence.batch_size == 1 and not smoothing
    if one_weighted or (class_weights is None and not smoothing):
        # A single label's weight cancels out of the mean.
        return infer_labels(
            evidence.network,
            evidence.target,
            batch_size=evidence.batch_size,
            noise=evidence.noise,
            classes=layer.classes,
            local_steps=evidence.local_steps,
        )
    weight, error = evidence.gradients(layer)
    if class_weights is not None and min(class_weights) <= 0:
        raise ValueError(f"labels cannot be inferred: a class of weight 0 leaves no trace; {_OTHERWISE}")
    weights = weight.new_tensor(class_weights or [1.0] * layer.classes, dtype=torch.float64)
    if evidence.batch_size == 1:
        output = evidence.output_of_one(layer)
        if output is not None and error is not None:
            _check_known(output)
            pairs = zip(output, error.double(), strict=True)
            found = [_best_class(o, e, smoothing, weights) for o, e in pairs]
            labels = torch.stack([label for label, _ in found])[:, None]
            known = KnownLabels.alike(labels, "estimated", _UNLIKE)
            return known.sure_where([fits for _, fits in found])
    seen = evidence.on_noise(layer)
    if error is None or seen is None:
        raise ValueError(
            "labels cannot be inferred with label smoothing or class weights: that takes a model whose "
            f"output is its last linear layer's, with a bias; {_OTHERWISE}"
        )
    likely = seen[1].double().softmax(-1).mean(0)
    counts = _weighted_counts(error.double(), likely, evidence.batch_size, smoothing, weights)
    classes = torch.arange(layer.classes, device=error.device)
    labels = torch.stack([classes.repeat_interleave(row) for row in counts])
    return KnownLabels.alike(labels, "estimated", _COUNTED)


def _alike(error: Tensor, ideal: Tensor, rounding: float) -> list[bool]:
    """Whether gradients ``[V, K]`` are the same, for each victim."""
    allowed = _EXACT * ideal.norm(dim=-1) + 4 * rounding
    return ((error - ideal).norm(dim=-1) <= allowed).tolist()


def _best_class(output: Tensor, error: Tensor, smoothing: float, weights: Tensor) -> tuple[Tensor, bool]:
    """The class whose loss at `output` ``[K]`` has the gradient `error` ``[K]``, and whether it fits.

    That is a matter of direction alone, but of the length too where there are two classes: there the other
    one's gradient is the opposite.
    """
    classes, likely = len(output), output.softmax(-1)
    spread = smoothing / classes * (weights.sum() * likely - weights)
    label = torch.eye(classes, dtype=output.dtype, device=output.device)
    candidates = (1 - smoothing) * (likely - label) + spread / weights[:, None]
    cosine, label = F.cosine_similarity(candidates, error[None], dim=-1).max(0)
    ideal = candidates[label]
    fits = float(cosine) > 1 - _FITS
    return label, fits and (classes > 2 or _alike(error[None], ideal[None], 0.0)[0])


def _weighted_counts(
    error: Tensor, likely: Tensor, batch_size: int, smoothing: float, weights: Tensor
) -> Tensor:
    """How often each class occurs, ``[V, K]``, int64, with the network's mean output for every input's.

    The loss divides by the sum of its labels' weights, which the counts decide: found in rounds.
    """
    each = smoothing / len(weights)
    total = batch_size * weights.mean().expand(len(error), 1)
    counts = error
    for _ in range(_ROUNDS):
        spread = each * (weights.sum() * likely - weights) * batch_size / total
        share = (likely - (error - spread) / (1 - smoothing)).clamp(min=0.0) / weights
        counts = batch_size * share / share.sum(-1, keepdim=True)
        total = (counts * weights).sum(-1, keepdim=True)
    # A class that does not occur has no smaller entry than its share of the smoothing.
    certain = error + each * weights * batch_size / total
    return label_counts(certain, batch_size, counts / batch_size + certain)


def _check_known(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"labels cannot be inferred: the last layer's gradient is all zero; {_OTHERWISE}")


def _shaped(targets: Tensor, evidence: Evidence) -> Tensor:
    """Targets ``[V, B or K]`` in the form of the network's output, ``[V, B, ...]``."""
    return targets.to(evidence.output.dtype).reshape(len(targets), *evidence.output.shape)
