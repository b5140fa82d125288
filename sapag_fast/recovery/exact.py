"""The public face of exact recovery: `recover_exact`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, device, nn

from sapag_fast import checks as check
from sapag_fast.exact.answer import Answer
from sapag_fast.exact.solve import STARTS
from sapag_fast.recovery.exact_answers import answers_to
from sapag_fast.search.options import SearchOptions
from sapag_fast.search.prepare import Attack, Targets, prepare
from sapag_fast.victim.loss import Loss
from sapag_fast.victim.losses import CrossEntropy, find_loss
from sapag_fast.victim.normalised import PerChannel
from sapag_fast.victim.targets import TargetGradient

__all__ = ["ExactRecovery", "recover_exact"]


@dataclass(frozen=True, repr=False)
class ExactRecovery:
    """What arithmetic recovers of R victims.

    Attributes
    ----------
    inputs : Tensor
        ``[R, B, *input_shape]``; nan where there is no answer.
    labels : Tensor
        ``[R, B, ...]``; -1 where there is no answer.
    recovered : Tensor
        ``[R]``, int64: inputs that follow from the gradient, of B. Those that leave no trace in its digits
        come last.
    distance : Tensor
        ``[R]``, `sapag`, between the gradient at the inputs and the target; inf without an answer.
    difference : Tensor
        ``[R]``, what is left of the target beside it, relative to the target's length; a client's clipping or
        scaling is taken out.
    method : tuple of str
        R, how the inputs were found; empty without an answer.
    reason : tuple of str
        R, why not all were found, or what is to be said of the gradient; else empty.
    confirmed : Tensor
        ``[R]``, bool: other inputs, such as the mean of several, would not give the gradient as well.
    """

    inputs: Tensor
    labels: Tensor
    recovered: Tensor
    distance: Tensor
    difference: Tensor
    method: tuple[str, ...]
    reason: tuple[str, ...]
    confirmed: Tensor

    @property
    def found(self) -> Tensor:
        """``[R]``, bool: all inputs were found and confirmed, and reproduce the gradient."""
        return (self.recovered == self.inputs.shape[1]) & self.confirmed

    def __repr__(self) -> str:
        size = self.inputs.shape[1]
        told = [f"{n} of {size}{f' ({why})' if why else ''}" for n, why in self._first()]
        more = f", {len(self.reason) - len(told)} more" if len(self.reason) > len(told) else ""
        return f"ExactRecovery({', '.join(told)}{more})"

    def _first(self) -> list[tuple[int, str]]:
        return list(zip(self.recovered[:4].tolist(), self.reason[:4], strict=True))


def recover_exact(
    model: nn.Module,
    target: TargetGradient,
    input_shape: Sequence[int],
    *,
    loss_fn: str | Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 1,
    labels: str | Tensor | Sequence[int] = "infer",
    batched: bool = False,
    device: device | str | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    starts: int = STARTS,
) -> ExactRecovery:
    """Compute the inputs whose gradient is `target`, where they follow from it by arithmetic.

    They do where a linear layer with a bias is fed the input itself: of one input always, of a batch behind
    ReLU from the rank of that layer's gradient and the zeros in what flows back to it (SPEAR); and of one
    image behind a patch embedding with learned positions (APRIL). Each answer is checked: the gradient at it
    must be the target, up to a factor. Nothing else is returned.

    Parameters
    ----------
    model, target, input_shape, loss_fn, batch_size, batched, device, mean, std
        As for `recover`.
    labels : str, Tensor or sequence of int
        ``"infer"`` (found with the inputs, for cross-entropy; they come in ascending order), or the labels,
        whose order the inputs take.
    starts : int
        The most starts of a batch's search for zeros.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    """
    batched = check.check_flag("batched", batched)
    starts = check.check_count("starts", starts)
    batch_size = check.check_count("batch_size", batch_size)
    if isinstance(labels, str) and labels != "infer":
        raise ValueError(f"labels must be 'infer' or a tensor, found {labels!r}")
    inferred = isinstance(labels, str) and isinstance(find_loss(loss_fn), CrossEntropy)
    # Classes are found with the inputs: not from the last layer, which may not tell them.
    given = torch.zeros(batch_size, dtype=torch.long) if inferred else labels
    attack = prepare(
        model,
        Targets(target, given, batched),
        input_shape,
        loss_fn=loss_fn,
        batch_size=batch_size,
        options=SearchOptions(mean=mean, std=std, distance="sapag"),
        device=device,
    )
    known = [None if inferred else attack.labels[victim] for victim in range(attack.problem.victims)]
    return _collected(attack, answers_to(attack, known, starts=starts))


def _collected(attack: Attack, answers: Sequence[Answer]) -> ExactRecovery:
    inputs = torch.full_like(attack.starts, torch.nan)
    labels = torch.full_like(attack.labels, -1)
    distance = inputs.new_full((len(answers),), torch.inf)
    difference = distance.clone()
    for victim, answer in enumerate(answers):
        if answer.inputs is None or answer.labels is None or answer.reproduction is None:
            continue
        inputs[victim], labels[victim] = answer.inputs, answer.labels
        distance[victim], difference[victim] = answer.reproduction.distance, answer.reproduction.difference
    return ExactRecovery(
        inputs=inputs,
        labels=labels,
        recovered=torch.tensor([answer.recovered for answer in answers]),
        distance=distance,
        difference=difference,
        method=tuple(answer.method for answer in answers),
        reason=tuple("; ".join(filter(None, (answer.reason, answer.doubt))) for answer in answers),
        confirmed=torch.tensor([not answer.doubt for answer in answers]),
    )
