"""A client's update as the gradient that it is: (parameters before - parameters after) / learning rate."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.files.parameter_names import model_names
from sapag_fast.victim.cautions import BATCHNORM_TRAINING, Caution, CautionWarning
from sapag_fast.victim.searchable import LOW_PRECISION, searchable
from sapag_fast.victim.targets import as_tensor, entries_of, kept

__all__ = ["OTHER_WEIGHTS", "Update", "read_update", "update_from"]

OTHER_WEIGHTS = "other-weights"
"""Kind of the caution of a model that has not the weights that the client began with."""

_ROUNDED = 1e-2  # of a layer's update, by the rounding of its parameters
_SPREAD = 0.2  # of a rounding error, in units in the last place


@dataclass(frozen=True)
class Update:
    """What parameters before and after tell.

    Attributes
    ----------
    target : list of Tensor or None
        (before - after) / lr, in the order of the model's trainable parameters.
    cautions : tuple of Caution
        What makes it worth less than it looks.
    """

    target: list[Tensor | None]
    cautions: tuple[Caution, ...]


def update_from(
    model: nn.Module,
    before: Mapping[str, Any] | Iterable[Any],
    after: Mapping[str, Any] | Iterable[Any],
    *,
    lr: float,
) -> list[Tensor | None]:
    """Make a target of the parameters that a client began with, and of those that it sent back.

    After one step of gradient descent it is the gradient; after several, the sum of their gradients, which
    `recover` searches with ``local_steps=`` and ``local_lr=lr``.

    Parameters
    ----------
    model : nn.Module
        With the parameters before.
    before, after : mapping or iterable of Tensor or ndarray
        A ``state_dict()`` or any dictionary by name, buffers and prefixes such as ``module.`` included, or a
        list in the order of the trainable parameters, of all parameters, or of the ``state_dict()``
        (Flower's form).
    lr : float
        The client's learning rate.

    Returns
    -------
    list of Tensor or None
        One for each trainable parameter in the order of ``model.parameters()``, of its shape and on its
        device; None where an entry is None. In float32 where the model is in half precision.

    Raises
    ------
    TypeError, ValueError
        For names, numbers or shapes that do not fit the model, parameters that changed although they are
        frozen in the model, and where nothing changed.

    Warns
    -----
    CautionWarning
        Where the model has other parameters than `before`, where the numbers are rounded so that little of a
        small update is left, and where BatchNorm was in another mode.
    """
    update = read_update(model, before, after, lr=lr)
    for caution in update.cautions:
        warnings.warn(caution.message, CautionWarning, stacklevel=2)
    return update.target


@torch.no_grad()
def read_update(model: nn.Module, before: Any, after: Any, *, lr: float) -> Update:
    """Make the target, and say what is to be known of it; as `update_from`."""
    lr, bare = check.check_positive("lr", lr), searchable(model).model
    device, _ = check.check_model(bare, None)
    pair = []
    for what, given in (("before", before), ("after", after)):
        given = kept(given)
        pair.append((given, entries_of(bare, given, what, device)))
    (_, old), (_, new) = pair
    named = {n: p for n, p in bare.named_parameters() if p.requires_grad}
    target: list[Tensor | None] = []
    moved, rounded = 0.0, 0.0
    for name, parameter in named.items():
        first, last = (_number(f"{w}[{name!r}]", e[name]) for w, e in (("before", old), ("after", new)))
        if first is None or last is None:
            target.append(None)
            continue
        change = first.to(device).double() - last.to(device).double()
        size = float(change.norm())
        unit = max(torch.finfo(t.dtype).eps for t in (first, last))
        if size and len(parameter.shape) > 1:
            rounded = max(rounded, _SPREAD * unit * float(first.double().norm()) / size)
        moved += size
        target.append((change / lr).to(parameter.dtype))
    if moved == 0:
        raise ValueError("after must be other parameters than before, found the same")
    _check_frozen(bare, pair[0][0], pair[1][0], device)
    cautions = (
        *_other_weights(named, old, device),
        *_rounding(rounded),
        *_batchnorm(bare, pair[0][0], pair[1][0], device),
    )
    return Update(target, cautions)


def _number(name: str, entry: Tensor | None) -> Tensor | None:
    if entry is not None and not entry.is_floating_point():
        raise TypeError(f"{name} must be floating point, found {entry.dtype}")
    return entry


def _changed(
    model: nn.Module, before: Any, after: Any, device: torch.device, names: Iterable[str]
) -> list[str]:
    """Which of these parameters and buffers changed, as far as both sides have them by name."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        state = list(model.state_dict())
        if not all(isinstance(side, Mapping) or len(side) == len(state) for side in (before, after)):
            return []
        before, after = (
            side if isinstance(side, Mapping) else dict(zip(state, side, strict=True))
            for side in (before, after)
        )
    sides = [model_names(model, side) for side in (before, after)]
    changed = []
    for name in names:
        first, last = (as_tensor(name, side.get(name), device) for side in sides)
        if first is not None and last is not None and first.shape == last.shape:
            changed += [] if torch.equal(first.to(device), last.to(device).to(first.dtype)) else [name]
    return changed


def _check_frozen(model: nn.Module, before: Any, after: Any, device: torch.device) -> None:
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen and (changed := _changed(model, before, after, device, frozen)):
        raise ValueError(
            f"after: {changed[0]} differs from before, and is frozen in the model: the client trained it; "
            "expected requires_grad=True for what was trained"
        )


def _other_weights(
    named: Mapping[str, Tensor], before: Mapping[str, Tensor | None], device: torch.device
) -> tuple[Caution, ...]:
    apart = [
        name
        for name, own in named.items()
        if (first := before[name]) is not None and not torch.equal(first.to(device).to(own.dtype), own)
    ]
    if not apart:
        return ()
    message = (
        f"the model has other weights than before ({apart[0]}{' and more' if len(apart) > 1 else ''}): a "
        "recovery needs those that the client began with; load before into the model"
    )
    return (Caution(OTHER_WEIGHTS, apart[0].rpartition(".")[0], message),)


def _rounding(share: float) -> tuple[Caution, ...]:
    if share < _ROUNDED:
        return ()
    message = (
        f"parameters are rounded, by about {share:.1%} of a layer's whole update: fine detail is lost, and "
        "the distance stays above zero; gradients, or parameters of higher precision, tell more"
    )
    return (Caution(LOW_PRECISION, "", message),)


def _batchnorm(model: nn.Module, before: Any, after: Any, device: torch.device) -> tuple[Caution, ...]:
    """Running statistics that moved, of layers that the model has in evaluation mode."""
    modules = dict(model.named_modules())
    names = [
        name
        for name, _ in model.named_buffers()
        if name.endswith(("running_mean", "running_var")) and not modules[name.rpartition(".")[0]].training
    ]
    changed = _changed(model, before, after, device, names) if names else []
    if not changed:
        return ()
    layer = changed[0].rpartition(".")[0]
    message = (
        f"running statistics of {layer} changed: the client had BatchNorm in training mode, and the model "
        "has it in evaluation mode; call model.train() to search what the client computed"
    )
    return (Caution(BATCHNORM_TRAINING, layer, message, modules=(layer,)),)
