"""The built-in losses, and which of them a user means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast import checks as check
from sapag_fast.victim.label_inference import Evidence, class_labels, real_labels, yes_or_no_labels
from sapag_fast.victim.labels import KnownLabels
from sapag_fast.victim.loss import LOSS_NAMES, Loss, OwnInference

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Loss",
    "MeanSquaredError",
    "OwnInference",
    "find_loss",
]

_IGNORED = -100  # cross-entropy's default ignore_index


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of logits ``[B, classes, ...]`` and classes or probabilities, the mean over the batch.

    Attributes
    ----------
    label_smoothing : float
        In [0, 1): so much of each label is spread over all classes.
    weight : tuple of float or None
        Of each class.

    Raises
    ------
    TypeError, ValueError
        For other values.
    """

    label_smoothing: float = 0.0
    weight: Sequence[float] | None = None

    def __post_init__(self) -> None:
        smoothing = check.check_weight("label_smoothing", self.label_smoothing)
        if smoothing >= 1:
            raise ValueError(f"label_smoothing must be below 1, found {smoothing:g}")
        object.__setattr__(self, "label_smoothing", smoothing)
        object.__setattr__(self, "weight", _weights("weight", self.weight))

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch."""
        weight = None if self.weight is None else _tensor(tuple(self.weight), output.device, output.dtype)
        return F.cross_entropy(output, labels, weight=weight, label_smoothing=self.label_smoothing)

    @property
    def plain(self) -> bool:
        """Whether neither smoothing nor weights are set."""
        return self.weight is None and not self.label_smoothing

    @property
    def function(self) -> Callable[[Tensor, Tensor], Tensor]:
        """``(output, labels) -> scalar``."""
        return F.cross_entropy if self.plain else self

    @property
    def words(self) -> str:
        """What tells it from other losses, in words."""
        return repr(self)

    def check_output(self, output: Any) -> None:
        """Raise ValueError for weights of another number of classes."""
        if self.weight is None:
            return
        if not isinstance(output, Tensor) or output.dim() < 2 or output.shape[1] != len(self.weight):
            raise ValueError(
                f"weight must be of {len(self.weight)} classes for outputs [B, {len(self.weight)}, ...], "
                f"found outputs {_form(output)}"
            )

    def fitted(self, labels: Tensor, output: Any) -> Tensor:
        """Classes as int64, checked against the output."""
        if not isinstance(output, Tensor) or output.dim() < 3:
            return labels
        if labels.is_floating_point():
            if labels.shape[1:] != output.shape:
                raise ValueError(
                    f"labels must be probabilities {_form(output)} as the model's output, found shape "
                    f"{list(labels.shape[1:])}"
                )
            return labels
        expected = (output.shape[0], *output.shape[2:])
        if labels.shape[1:] != expected:
            raise ValueError(
                f"labels must be classes {list(expected)} for outputs {_form(output)}, found shape "
                f"{list(labels.shape[1:])}"
            )
        labels, classes = labels.long(), output.shape[1]
        wrong = labels[(labels != _IGNORED) & ((labels < 0) | (labels >= classes))]
        if len(wrong):
            raise ValueError(
                f"labels must lie in 0..{classes - 1} (the model's outputs) or be {_IGNORED}, found "
                f"{int(wrong[0])}"
            )
        return labels

    def infer(self, evidence: Evidence) -> KnownLabels:
        """Classes ``[V, B]``, in ascending order within a batch."""
        return class_labels(evidence, self.label_smoothing, self.weight)

    def joint_targets(self, logits: Tensor) -> Tensor:
        """Probabilities."""
        return logits.softmax(-1)

    def joint_shape(self, output: Any) -> tuple[int, ...]:
        """``[B, classes]``."""
        if not isinstance(output, Tensor) or output.dim() != 2:
            raise ValueError("labels='joint' needs a model whose output is [B, classes]")
        return tuple(output.shape)

    def balanced(self, output: Tensor) -> Tensor:
        """Probabilities ``[B, classes]`` at which the loss has no gradient."""
        smoothing, likely = self.label_smoothing, output.softmax(-1)
        targets = (likely - smoothing / output.shape[-1]) / (1 - smoothing)
        if self.weight is None:
            return targets
        targets = targets / _tensor(tuple(self.weight), output.device, output.dtype)
        return targets / targets.sum(-1, keepdim=True)

    def decided(self, targets: Tensor, output: Tensor) -> Tensor:
        """Classes ``[..., B]``: whose probabilities lie the most above the network's own."""
        return (targets - self.balanced(output)).argmax(-1)


class _ByElement(Loss):
    """A loss of as many targets as the network has outputs."""

    what: ClassVar[str]

    @property
    def function(self) -> Callable[[Tensor, Tensor], Tensor]:
        """``(output, labels) -> scalar``."""
        return cast(Callable[[Tensor, Tensor], Tensor], self)

    @property
    def words(self) -> str:
        """What tells it from other losses, in words."""
        return repr(self)

    def fitted(self, labels: Tensor, output: Any) -> Tensor:
        """Targets of the output's type and shape: PyTorch would stretch other ones to it."""
        if not isinstance(output, Tensor):
            raise ValueError(f"model must give a tensor for {self.what}, found {type(output).__name__}")
        wanted, found = output.shape, labels.shape[1:]
        if [n for n in found if n > 1] != [n for n in wanted if n > 1] or labels[0].numel() != output.numel():
            raise ValueError(
                f"labels must be {self.what} {_form(output)} as the model's output, found shape {list(found)}"
            )
        return labels.to(output.dtype).reshape(len(labels), *wanted)


@dataclass(frozen=True)
class BinaryCrossEntropy(_ByElement):
    """``binary_cross_entropy_with_logits``: one yes or no for each output, the mean over all of them.

    Attributes
    ----------
    pos_weight : tuple of float or None
        Of a yes, for each output.

    Raises
    ------
    TypeError, ValueError
        For other values.
    """

    pos_weight: Sequence[float] | None = None
    what: ClassVar[str] = "targets in 0..1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pos_weight", _weights("pos_weight", self.pos_weight))

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch."""
        weights = self.pos_weight
        weight = None if weights is None else _tensor(tuple(weights), output.device, output.dtype)
        return F.binary_cross_entropy_with_logits(output, labels, pos_weight=weight)

    def check_output(self, output: Any) -> None:
        """Raise ValueError for weights of another number of outputs."""
        if self.pos_weight is None:
            return
        outputs = output.shape[-1] if isinstance(output, Tensor) and output.dim() > 1 else 1
        if len(self.pos_weight) not in (1, outputs):
            raise ValueError(
                f"pos_weight must have {outputs} numbers for outputs {_form(output)}, found "
                f"{len(self.pos_weight)}"
            )

    def fitted(self, labels: Tensor, output: Any) -> Tensor:
        """Targets in 0..1 of the output's shape."""
        fitted = super().fitted(labels, output)
        low, high = float(fitted.min()), float(fitted.max())
        if low < 0 or high > 1:
            raise ValueError(f"labels must be {self.what}, found {low if low < 0 else high:g} among them")
        return fitted

    def infer(self, evidence: Evidence) -> KnownLabels:
        """0 or 1 for each output, ``[V, *output shape]``."""
        return yes_or_no_labels(evidence, self.pos_weight)

    def joint_targets(self, logits: Tensor) -> Tensor:
        """Each between 0 and 1."""
        return logits.sigmoid()

    def balanced(self, output: Tensor) -> Tensor:
        """Targets at which the loss has no gradient."""
        likely = output.sigmoid()
        if self.pos_weight is None:
            return likely
        return likely / (likely + _tensor(tuple(self.pos_weight), output.device, output.dtype) * (1 - likely))

    def decided(self, targets: Tensor, output: Tensor) -> Tensor:
        """1 above the network's own probability, 0 below."""
        return (targets > self.balanced(output)).to(targets.dtype)


@dataclass(frozen=True)
class MeanSquaredError(_ByElement):
    """``mse_loss``: one real number for each output, the mean over all of them."""

    what: ClassVar[str] = "numbers"

    def __call__(self, output: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch."""
        return F.mse_loss(output, labels)

    def infer(self, evidence: Evidence) -> KnownLabels:
        """Real numbers, ``[V, *output shape]``, for one input behind each gradient."""
        return real_labels(evidence)

    def joint_targets(self, logits: Tensor) -> Tensor:
        """As they are."""
        return logits

    def balanced(self, output: Tensor) -> Tensor:
        """The output itself."""
        return output


_BY_NAME: dict[str, type[Any]] = dict(
    zip(LOSS_NAMES, (CrossEntropy, BinaryCrossEntropy, MeanSquaredError), strict=True)
)


def find_loss(loss_fn: object) -> Loss:
    """Find what a user means: None, a built-in loss or its name, or a callable.

    PyTorch's ``cross_entropy`` and ``CrossEntropyLoss`` are the built-in one, with their smoothing and
    weights, but where they sum, or ignore another class than -100; then they are a callable like others.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    if loss_fn is None:
        return CrossEntropy()
    if isinstance(loss_fn, Loss):
        return loss_fn
    if isinstance(loss_fn, str):
        return _BY_NAME[check.check_choice("loss_fn", loss_fn, LOSS_NAMES, other="a callable")]()
    settings = _cross_entropy_settings(loss_fn)
    if settings is not None:
        return CrossEntropy(**settings)
    return Loss(check.check_callable("loss_fn", loss_fn))


def _cross_entropy_settings(loss_fn: object) -> dict[str, Any] | None:
    """Those of PyTorch's cross-entropy, or None where it is another function or has other settings."""
    if loss_fn is F.cross_entropy:
        settings: dict[str, Any] = {}
    elif isinstance(loss_fn, partial) and loss_fn.func is F.cross_entropy and not loss_fn.args:
        settings = dict(loss_fn.keywords)
    elif type(loss_fn) is nn.CrossEntropyLoss:
        names = ("weight", "ignore_index", "reduction", "label_smoothing")
        settings = {name: getattr(loss_fn, name) for name in names}
    else:
        return None
    usual = settings.pop("ignore_index", _IGNORED) == _IGNORED
    usual = settings.pop("reduction", "mean") == "mean" and usual
    smoothing = settings.get("label_smoothing", 0.0)
    if not usual or not settings.keys() <= {"weight", "label_smoothing"} or not 0 <= smoothing < 1:
        return None
    return settings


def _weights(name: str, given: Any) -> tuple[float, ...] | None:
    """Numbers of which none is below 0 and not all are 0, a tensor's among them."""
    if given is None:
        return None
    values = given.detach().reshape(-1).tolist() if isinstance(given, Tensor) else given
    numbers = tuple(
        float(check.check_weight(name, value)) for value in check.check_sequence(name, values, "numbers")
    )
    if not any(numbers):
        raise ValueError(f"{name} must be positive numbers, found {check.shown(given)}")
    return numbers


@lru_cache(maxsize=16)
def _tensor(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Made once: a graph of a GPU's work takes no new one from the host."""
    return torch.tensor(values, device=device, dtype=dtype)


def _form(output: Any) -> str:
    return str(list(output.shape)) if isinstance(output, Tensor) else type(output).__name__
