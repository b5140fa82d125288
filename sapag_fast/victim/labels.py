"""Labels from the gradient of the last linear layer, for cross-entropy on logits, and how sure they are.

The bias gradient of the last layer is the mean over the batch of p - y, with p the softmax output and y the
one-hot label: its entries add up to zero, and a negative one belongs to a class that occurs (Yin et al.
2021). With one image exactly the label's entry is negative (iDLG: Zhao, Mopuri, Bilen 2020). The weight's
gradient is the mean of (p - y) h with h the features. With one image it has rank one, and the label's row has
a negative product with every other row, whatever the features' signs: so labels are told without a bias.

With B images n_c = B (mean p_c - gradient_c) holds exactly; mean p is not known. The weight's rows over the
bias's entries, weighted by their size, are a mean of the batch's own features, and p there comes close to
mean p (in the manner of Ma et al. 2023). Without a bias the rows' components along the mean features of noise
images stand in for it, and where the last matrix does not make the output their mean output for mean p (Geng
et al. 2021). What scale the gradient has is estimated from absent classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sapag_fast.runtime.randomness import forked
from sapag_fast.victim.label_evidence import LabelEvidence
from sapag_fast.victim.last_layer import LastLayer, find_last_layer, try_on_noise
from sapag_fast.victim.model import VictimModel

__all__ = ["SOURCES", "KnownLabels", "check_inferable", "infer_labels"]

SOURCES = ("given", "joint", "inferred", "estimated", "unknown")
"""How labels were obtained: given; searched together with the inputs; from a gradient that fits what the
method assumes, and then exact; from one where their counts rest on an estimate, or that fits nearly; from one
that does not fit, and then a guess."""


@dataclass(frozen=True)
class KnownLabels:
    """The labels of V victims, and how they were obtained.

    Attributes
    ----------
    labels : Tensor
        ``[V, B, ...]``.
    source : tuple of str
        V of `SOURCES`.
    reason : tuple of str
        V, why not surer; empty where nothing is to be said.
    """

    labels: Tensor
    source: tuple[str, ...]
    reason: tuple[str, ...]

    @classmethod
    def alike(cls, labels: Tensor, source: str, reason: str = "") -> KnownLabels:
        """Of victims whose labels were all obtained in one way."""
        return cls(labels, (source,) * len(labels), (reason,) * len(labels))

    def sure_where(self, sure: Sequence[bool]) -> KnownLabels:
        """The same labels, ``inferred`` for the victims of which that holds."""
        source = ("inferred" if yes else how for yes, how in zip(sure, self.source, strict=True))
        reason = ("" if yes else why for yes, why in zip(sure, self.reason, strict=True))
        return KnownLabels(self.labels, tuple(source), tuple(reason))


def check_inferable(target: Sequence[Tensor | None], classes: int | None = None) -> LastLayer:
    """Find the last layer of gradients that labels can be inferred from.

    Parameters
    ----------
    target : sequence of Tensor or None
        ``[V, *parameter shape]``.
    classes : int, optional
        The number of outputs, for the check.

    Raises
    ------
    ValueError
        When there is no last linear layer, or its gradient cannot be cross-entropy's: no entry is negative.
    """
    layer = find_last_layer([None if entry is None else entry[0] for entry in target], classes)
    error = target[layer.weight if layer.bias is None else layer.bias]
    assert error is not None
    negative = (error < 0).flatten(1).any(1)
    if layer.bias is None:  # the features' signs are not known
        negative |= (error > 0).flatten(1).any(1)
    if not bool(negative.all()):
        worst = int((~negative).nonzero()[0])
        found = "is negative" if layer.bias is not None else "differs from zero"
        raise ValueError(
            f"labels cannot be inferred: no entry of the last layer's gradient {found}"
            f"{f' (recovery {worst})' if len(negative) > 1 else ''}, so it does not look like "
            f"cross-entropy's; "
            "give labels= a tensor or 'joint'"
        )
    return layer


def infer_labels(
    network: VictimModel,
    target: Sequence[Tensor | None],
    *,
    batch_size: int,
    noise: Tensor,
    classes: int | None = None,
    local_steps: int = 1,
) -> KnownLabels:
    """Labels of every recovery, in ascending order within a batch.

    What is found of a victim follows from its own gradient alone.

    Parameters
    ----------
    network : VictimModel
        The victim's network.
    target : sequence of Tensor or None
        ``[V, *parameter shape]``, the target gradients.
    batch_size : int
        Images behind each gradient, B.
    noise : Tensor
        ``[M, *input_shape]``, inputs on which the network is tried.
    classes : int, optional
        The number of outputs, for the check.
    local_steps : int
        Steps whose gradients `target` sums.

    Returns
    -------
    KnownLabels
        ``[V, B]``, int64, each ``inferred``, ``estimated`` or ``unknown``.

    Raises
    ------
    ValueError
        When there is no last linear layer, or its gradient is not one of cross-entropy (no negative entry).
    """
    layer = check_inferable(target, classes)
    name = network.names[layer.weight]
    if batch_size == 1:
        with forked(noise.device):  # other networks' random numbers stay as they are
            tried = try_on_noise(network, name, noise[:2])
    else:
        tried = try_on_noise(network, name, noise)
    weight, bias = (None if at is None else target[at] for at in (layer.weight, layer.bias))
    assert weight is not None
    head = None
    if tried.is_output and layer.bias is not None:
        head = tuple(network.parameters[network.names[at]].detach() for at in (layer.weight, layer.bias))
        head = (head[0].double().cpu(), head[1].double().cpu())
    found = [
        LabelEvidence(
            weight[victim].double().cpu() / local_steps,
            None if bias is None else bias[victim].double().cpu() / local_steps,
            head=head,
            tried=tried,
            size=batch_size,
            steps=local_steps,
            rounding=torch.finfo(weight.dtype).eps,
        ).verdict()
        for victim in range(len(weight))
    ]
    labels = torch.tensor([each for each, _, _ in found], device=weight.device)
    return KnownLabels(labels, tuple(source for _, source, _ in found), tuple(why for _, _, why in found))
