"""The gradient that a client shares: of one loss, over one batch, for every parameter that is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sapag_fast.victim.losses import CrossEntropy, Loss

__all__ = ["checked_loss", "client_gradient"]


def client_gradient(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> tuple[Tensor, ...]:
    """Form the loss's gradient for every trained parameter, in the order of ``model.parameters()``.

    Parameters
    ----------
    model : nn.Module
        In the mode (training or not) in which the client has it.
    inputs : Tensor
        ``[B, *input_shape]``.
    labels : Tensor
        ``[B]``, int64, or what `loss_fn` takes.
    loss_fn : callable
        ``(output, labels) -> scalar``.

    Returns
    -------
    tuple of Tensor
        Zeros for a parameter that the loss does not depend on.

    Raises
    ------
    ValueError
        Where model and inputs do not fit.
    """
    try:
        output = model(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shape = "x".join(map(str, inputs.shape[1:]))
        raise ValueError(f"input shape {shape}: the model rejects it: {error}") from None
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradient = torch.autograd.grad(loss_fn(output, labels), parameters, allow_unused=True)
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradient, strict=True))


def checked_loss(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as a function that refuses what does not fit it.

    It raises ValueError for outputs that are none for the loss (cross-entropy takes ``[B, classes]`` here),
    and for labels that do not fit them.
    """

    def checked(output: Tensor, labels: Tensor) -> Tensor:
        if isinstance(loss, CrossEntropy):
            _check_classes(output, labels)
        loss.check_output(output)
        return loss.function(output, loss.fitted(labels[None], output)[0])

    return checked


def _check_classes(logits: Tensor, labels: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model: expected logits [batch, classes] for {len(labels)} images, found {found}")
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels: expected 0..{logits.shape[1] - 1}, found {int(labels.max())}")
