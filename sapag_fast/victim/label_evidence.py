"""What one gradient of the last linear layer says of its batch's labels, and whether it can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sapag_fast.victim.label_counts import gradient_scale, label_counts
from sapag_fast.victim.last_layer import Tried

__all__ = ["LabelEvidence", "Verdict"]

_UNBALANCED, _FAR = 1e-3, 0.1
"""The sum of p - y over the sum of its sizes: up to which a gradient fits, and up to which it nearly fits."""
_HIGHER_RANK = 1e-5
"""The largest singular value beyond the B-th, over the largest, up to which the rank is B."""
_DISTINCT = 0.5
"""The size of a negative entry too many over that of the last one that counts, up to which that is clear."""
_DEPARTURE = 0.02
"""Relative difference between a gradient and the one that the layer's own output gives, up to which they are
the same."""

_COUNTS = "how often each class occurs follows from an estimate of the mean output"
_NOT_THE_OUTPUT = "the layer with the last matrix does not make the model's output"
_UNEXPLAINED = "the layer's own output does not give this gradient: other weights, or not plain cross-entropy"
_SAME_BATCH = "all local steps are taken for steps on one batch, which their sum does not tell"
_TWO_ENTRIES = (
    "only two entries of the last layer's gradient differ from zero, and which sign it has is not certain"
)


class Verdict(NamedTuple):
    """Labels, how they were obtained and why that is not surer.

    Attributes
    ----------
    labels : list of int
        B, ascending.
    source : str
        ``inferred``, ``estimated`` or ``unknown``.
    reason : str
    """

    labels: list[int]
    source: str
    reason: str


@dataclass(frozen=True, eq=False)
class LabelEvidence:
    """One victim's gradients of the last layer; all tensors in float64 on the CPU.

    Attributes
    ----------
    weight, bias : Tensor, Tensor or None
        ``[classes, features]`` and ``[classes]``, of one local step.
    head : pair of Tensor, or None
        The layer's own weight and bias, where it has one and makes the output.
    tried : Tried
        What the network gave for noise.
    size : int
        B.
    steps : int
        Local steps whose mean the gradients are.
    rounding : float
        Epsilon of the gradients' own type.
    """

    weight: Tensor
    bias: Tensor | None
    head: tuple[Tensor, Tensor] | None
    tried: Tried
    size: int
    steps: int
    rounding: float

    def verdict(self) -> Verdict:
        """Tell the labels; those of several steps are certain of no gradient."""
        found = self._of_one() if self.size == 1 else self._of_many()
        if self.steps > 1 and found.source == "inferred":
            return Verdict(found.labels, "estimated", _SAME_BATCH)
        return found

    def _of_one(self) -> Verdict:
        error = _signed_products(self.weight) if self.bias is None else self.bias
        negative, positive = _signs(error)
        if negative > 1 and positive == 1 and not self._fault(-error):
            reason = (
                "all entries of the last layer's gradient but one are negative: as if its sign were turned"
            )
            return Verdict([int(error.argmax())], "unknown", reason)
        label = [int(error.argmin())]
        if reason := self._fault(error):
            return Verdict(label, "estimated" if self._nearly_fits(error) else "unknown", reason)
        if self.tried.is_output is False:
            return Verdict(label, "estimated", _NOT_THE_OUTPUT)
        explained, scale = self._explained(error, label[0])
        if not explained:
            return Verdict(label, "estimated", _UNEXPLAINED)
        if negative == positive and not abs(scale - 1.0) <= _DEPARTURE:
            sure = self.bias is not None or self._features_positive
            return Verdict(label, "estimated" if sure else "unknown", _TWO_ENTRIES)
        return Verdict(label, "inferred", "")

    def _of_many(self) -> Verdict:
        error, reason = self._mean_error()
        probabilities = self._mean_probabilities()
        scale = gradient_scale(error, self.size, probabilities)
        counts = label_counts(error / (scale or 1.0), self.size, probabilities)
        labels = torch.arange(len(error)).repeat_interleave(counts).tolist()
        if reason:
            return Verdict(labels, "unknown", reason)
        if reason := self._fault(error):
            return Verdict(labels, "estimated" if self._nearly_fits(error) else "unknown", reason)
        if self.tried.is_output is False:
            return Verdict(labels, "estimated", _NOT_THE_OUTPUT)
        negative, positive = _signs(error)
        # As many classes as images; with the other sign there would be more classes than images.
        if negative == self.size < positive and (self.bias is not None or self._features_positive):
            return Verdict(labels, "inferred", "")
        reason = _COUNTS
        if scale is None:
            reason += "; the gradient's scale could not be checked"
        elif scale != 1.0 and self.bias is not None:
            reason += f"; the gradient seems to be {scale:.3g} times the mean's"
        return Verdict(labels, "estimated", reason)

    @property
    def _features_positive(self) -> bool:
        """Whether no feature was negative on noise, as behind a ReLU or a sigmoid."""
        features = self.tried.features
        return features is not None and bool((features >= 0).all())

    def _mean_error(self) -> tuple[Tensor, str]:
        """The mean of p - y, ``[classes]``, and why it cannot be told (empty where it can)."""
        if self.bias is not None:
            return self.bias, ""
        features = self.tried.features
        if features is None:
            return self.weight.sum(-1), "the last layer has no bias, and its features were not seen"
        mean = features.mean(0)
        along = features @ mean
        fault = "the last layer has no bias, and its features on noise inputs have no common direction"
        return self.weight @ mean / along.mean(), "" if float(along.min()) > 0 else fault

    def _mean_probabilities(self) -> Tensor:
        """Mean softmax output ``[classes]``: at the batch's mean features, as the gradients tell them.

        With w_c = sign(bias gradient_c) the sum of w_c times the weight gradient's rows is a sum of the
        images' features, whose factors add up to the sum of w_c times the bias's: features of either sign
        will do, and gradients of any scale.
        """
        if self.head is None or self.bias is None:
            return self.tried.probabilities
        features = self.bias.sign() @ self.weight / self.bias.abs().sum()
        return (self.head[0] @ features + self.head[1]).softmax(-1)

    def _fault(self, error: Tensor) -> str:
        """Why the gradient is not that of cross-entropy on B images; empty if nothing tells."""
        tolerance = max(_UNBALANCED, 4 * self.rounding)
        # The label's own p - 1 is rounded at the scale of 1.
        at_one = 4 * self.rounding if self.bias is not None else 0.0
        if abs(float(error.sum())) > tolerance * float(error.abs().sum()) + at_one:
            return "the entries of the last layer's gradient do not add up to zero"
        if _signs(error)[0] > self.size:
            return "more entries of the last layer's gradient are negative than there are images"
        higher = _higher_rank(self.weight, self.size) if self.steps == 1 else 0.0
        if higher > max(_HIGHER_RANK, 16 * self.rounding):
            return f"the last layer's gradient is not that of {self.size} image(s): its rank is higher"
        return ""

    def _nearly_fits(self, error: Tensor) -> bool:
        """Whether little is wrong with a gradient that has a fault."""
        if abs(float(error.sum())) > _FAR * float(error.abs().sum()):
            return False
        lowest = error.sort().values
        if len(lowest) <= self.size:
            return True
        return max(-float(lowest[self.size]), 0.0) <= -_DISTINCT * float(lowest[self.size - 1].clamp(max=0.0))

    def _explained(self, error: Tensor, label: int) -> tuple[bool, float]:
        """Whether the layer's own output for one image with this label gives this gradient, and how often.

        Without a bias the features' size is not known: True, and nan.
        """
        if self.head is None or self.bias is None:
            return True, torch.nan
        features = self.bias @ self.weight / (self.bias @ self.bias)
        ideal = (self.head[0] @ features + self.head[1]).softmax(-1)
        ideal[label] -= 1.0
        scale = float(error @ ideal / (ideal @ ideal))
        departure = _DEPARTURE * float(error.norm()) + 4 * self.rounding * abs(scale)
        return float((error - scale * ideal).norm()) <= departure, scale


def _signs(error: Tensor) -> tuple[int, int]:
    """Negative and positive entries."""
    return int((error < 0).sum()), int((error > 0).sum())


def _signed_products(weight: Tensor) -> Tensor:
    """Entries ``[classes]`` in proportion to p - y of one image, from rows (p_c - y_c) h.

    The label's row is the one whose product with all others is negative. Of two rows alone that cannot be
    said: the label's is then the one with the negative sum, as where features are positive.
    """
    largest = weight[weight.norm(dim=-1).argmax()]
    products = weight @ largest
    negative, positive = _signs(products)
    if negative == positive == 1:
        return products * largest.sum().sign()
    # The label's row is the largest, but for one of the same size.
    return products if negative == 1 else -products


def _higher_rank(weight: Tensor, size: int) -> float:
    """Largest singular value beyond the first B, over the largest."""
    if size >= min(weight.shape) - 1:
        return 0.0
    if size == 1:
        largest = weight[weight.norm(dim=-1).argmax()]
        direction = largest / largest.norm()
        rest = weight - (weight @ direction)[:, None] * direction
        return float(rest.norm() / weight.norm())
    gram = weight @ weight.t() if weight.shape[0] <= weight.shape[1] else weight.t() @ weight
    squares = torch.linalg.eigvalsh(gram).clamp(min=0.0)
    return float((squares[-size - 1] / squares[-1]).sqrt())
