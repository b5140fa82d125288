"""Checks of models, devices and tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sapag_fast.checks.values import shown

__all__ = ["check_device", "check_labels", "check_model", "check_start", "check_target", "check_tensors"]


def check_device(device: object) -> torch.device:
    """Return a device of this machine that holds numbers."""
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a name or a torch.device, found {shown(device)}")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device must be one of this machine, found {str(device)!r} ({why})") from None
    if chosen.type == "meta":
        raise ValueError(f"device must hold numbers, found {str(device)!r}")
    return chosen


def check_model(model: object, device: torch.device | str | None) -> tuple[torch.device, list[nn.Parameter]]:
    """Return the device to work on and the parameters that take part, in order."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, found {type(model).__name__}")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            "model must have a parameter with requires_grad=True, found none: no gradient to match"
        )
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ValueError(
            f"model must have parameters of known shapes, found {lazy[0]!r} of a lazy layer: run the network "
            "once first"
        )
    if device is not None:
        return check_device(device), parameters
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"model must be on one device, found several ({found}); give device=")
    return check_device(devices.pop()), parameters


def check_tensors(name: str, given: object, of: str = "tensors") -> list:
    """Return a sequence of tensors and None as a list of its own; its entries are not looked at.

    `of` says what it is a sequence of.

    Raises
    ------
    TypeError
        For one tensor or array, whose rows are no gradients, for what has its tensors by name, and for what
        is no sequence.
    """
    if type(given) is list or type(given) is tuple:
        return list(given)
    expected = f"{name}: expected a sequence of {of}"
    if isinstance(given, Tensor):
        raise TypeError(f"{expected}, found one tensor; [tensor] is a sequence of one")
    if isinstance(given, np.ndarray):
        raise TypeError(f"{expected}, found one array")
    if hasattr(given, "keys") and hasattr(given, "values"):
        kind = type(given).__name__
        raise TypeError(f"{expected}, found a {kind}; its .values() are one, in the order of the parameters")
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(f"{expected}, found {shown(given)}")
    return list(given)


def check_target(
    target: object,
    parameters: Sequence[Tensor],
    *,
    batched: bool,
    device: torch.device,
    move: bool,
    names: Sequence[str] | None = None,
) -> list[Tensor | None]:
    """Return the target gradient with a leading victim dimension.

    Parameters
    ----------
    target : iterable of Tensor or None
        One entry for each of the parameters, shaped like it, with `batched` ``[V, *parameter shape]``.
    parameters : sequence of Tensor
        Those that take part.
    batched : bool
        Whether the entries have a leading victim dimension.
    device : torch.device
        The model's.
    move : bool
        Whether entries may come from another one.
    names : sequence of str, optional
        Of the entries in messages; None: by their position.

    Returns
    -------
    list of Tensor or None
        ``[V, *parameter shape]`` each, of the parameter's type.

    Raises
    ------
    TypeError
        When it is not a sequence of tensors and None.
    ValueError
        For a wrong number, shape, device or leading dimension, for non-finite values, or when all entries are
        None.
    """
    if isinstance(target, (Tensor, Mapping, str)):
        raise TypeError(f"target must be a sequence of tensors, found {type(target).__name__}")
    try:
        entries = list(cast(Iterable, target))
    except TypeError:
        raise TypeError(f"target must be a sequence of tensors, found {type(target).__name__}") from None
    if len(entries) != len(parameters):
        raise ValueError(
            f"target must hold {len(parameters)} gradients, one for each trainable parameter of the model, "
            f"found {len(entries)}"
        )
    checked: list[Tensor | None] = []
    victims: int | None = None
    for index, (entry, parameter) in enumerate(zip(entries, parameters, strict=True)):
        if entry is None:
            checked.append(None)
            continue
        name = f"target entry {index}" if names is None else names[index]
        _check_entry(name, entry, parameter, batched=batched, device=None if move else device)
        placed = entry.detach().to(device=device, dtype=parameter.dtype)
        placed = placed if batched else placed[None]
        if victims is not None and placed.shape[0] != victims:
            raise ValueError(
                f"{name} must have {victims} victims as the entries before it, found {placed.shape[0]}"
            )
        victims = placed.shape[0]
        if not bool(torch.isfinite(placed).all()):
            raise ValueError(f"{name} must be finite, found non-finite values")
        checked.append(placed)
    if not victims:
        raise ValueError(
            f"target must hold a gradient, found {'only None' if victims is None else 'one of 0 victims'}"
        )
    return checked


def _check_entry(
    name: str, entry: object, parameter: Tensor, *, batched: bool, device: torch.device | None
) -> None:
    """`device`: where the entry must lie; None: anywhere."""
    if not isinstance(entry, Tensor):
        raise TypeError(f"{name} must be a tensor or None, found {type(entry).__name__}")
    if not entry.is_floating_point():
        raise TypeError(f"{name} must be floating point, found {entry.dtype}")
    if entry.layout is not torch.strided or entry.is_nested:
        found = "nested" if entry.is_nested else str(entry.layout)
        raise TypeError(f"{name} must be a dense tensor, found a {found} one")
    shape, own = tuple(parameter.shape), tuple(entry.shape)
    fits = own[1:] == shape and len(own) == len(shape) + 1 if batched else own == shape
    if not fits:
        expected = f"[victims, {', '.join(map(str, shape))}]" if batched else f"{list(shape)}"
        raise ValueError(f"{name} must have its parameter's shape {expected}, found {list(own)}")
    if device is not None and entry.device != device:
        raise ValueError(f"{name} must be on {device} as the model, found it on {entry.device}; give device=")
    if entry.is_meta:
        raise ValueError(f"{name} must hold numbers, found it on the meta device")


def check_labels(
    labels: object, *, victims: int, batch_size: int, batched: bool, classes: int | None, device: torch.device
) -> Tensor:
    """Return given labels as ``[V, B, ...]``.

    Whole-number labels come as ``[B]`` (shared by all victims), ``[V, B]`` or, with one image each, ``[V]``;
    floating-point ones (probabilities, regression targets) as ``[B, ...]`` or, batched, ``[V, B, ...]``. With
    `classes` (the default loss) whole numbers must lie in ``0..classes-1``.
    """
    given = _label_tensor(labels, device)
    if given.dim() == 0:
        given = given[None]
    if batched and given.shape[:2] == (victims, batch_size):
        spread = given
    elif given.shape[0] == batch_size:
        spread = given.expand(victims, *given.shape)
    elif batch_size == 1 and given.shape[0] == victims:
        spread = given[:, None]
    else:
        per_victim = f" or [{victims}, {batch_size}, ...]" if batched else ""
        raise ValueError(f"labels must have shape [{batch_size}, ...]{per_victim}, found {list(given.shape)}")
    if classes is not None and not given.is_floating_point():
        if spread.dim() != 2:
            raise ValueError(
                f"labels must be one whole number for each image, found shape {list(given.shape)}"
            )
        spread = spread.long()
        low, high = int(spread.min()), int(spread.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels must lie in 0..{classes - 1} (the model's outputs), found {low if low < 0 else high}"
            )
    elif classes is not None and (spread.dim() != 3 or spread.shape[2] != classes):
        raise ValueError(
            f"labels must be probabilities [{batch_size}, {classes}], found shape {list(given.shape)}"
        )
    elif classes is not None and bool((spread < 0).any()):
        raise ValueError(f"labels must be probabilities, found {float(spread.min()):g} among them")
    return spread


def _label_tensor(labels: object, device: torch.device) -> Tensor:
    try:
        given = torch.as_tensor(labels, device=device).detach()
    except OverflowError:
        raise ValueError(f"labels must be int64 numbers, found {shown(labels)}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        if "verflow" in str(error):
            raise ValueError(f"labels must be int64 numbers, found {shown(labels)}") from None
        raise TypeError(f"labels must be 'infer', 'joint' or a tensor, found {shown(labels)}") from None
    if given.dtype == torch.bool or given.is_complex():
        raise TypeError(f"labels must be whole numbers or probabilities, found {given.dtype}")
    if given.is_floating_point() and not bool(torch.isfinite(given).all()):
        raise ValueError("labels must be finite, found non-finite values")
    return given


def check_start(start: Tensor, *, victims: int, restarts: int, shape: tuple[int, ...]) -> Tensor:
    """Return a given start as ``[V x restarts, *shape]``, where `shape` is ``[B, *input_shape]``.

    It may come as ``[V, restarts, *shape]``, and with one restart as ``[V, *shape]``, `shape` or
    ``[*input_shape]`` too.
    """
    if not start.is_floating_point():
        raise TypeError(f"start must be floating point, found {start.dtype}")
    if start.is_meta or not bool(torch.isfinite(start).all()):
        raise ValueError(f"start must hold finite numbers, found {'none' if start.is_meta else 'others'}")
    full = (victims, restarts, *shape)
    if tuple(start.shape) == full:
        return start.flatten(0, 1)
    shared = (shape[1:], shape, (victims, *shape))
    if tuple(start.shape) not in shared:
        expected = " or ".join(str(list(fit)) for fit in (*shared, full))
        raise ValueError(f"start must have shape {expected}, found {list(start.shape)}")
    if restarts > 1:
        raise ValueError(
            f"start must have shape {list(full)} for {restarts} restarts, found one point for all of them"
        )
    return start.expand(victims, *shape)
