"""Checks of arguments; each error reads: the argument, what it must be, what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

__all__ = [
    "check_bounds",
    "check_callable",
    "check_count",
    "check_labels",
    "check_local_steps",
    "check_model",
    "check_number",
    "check_seed",
    "check_shape",
    "check_start",
    "check_target",
    "check_weight",
]


def check_count(name: str, value: object) -> int:
    """Return `value`, a positive int."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, found {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, found {value}")
    return value


def check_seed(seed: object) -> int:
    """Return `seed`, an int that a generator takes."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, found {type(seed).__name__}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must lie in -2**63..2**64 - 1, found {seed}")
    return seed


def check_number(name: str, value: object) -> float:
    """Return `value` as a float that is not nan."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, found {type(value).__name__}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number, found nan")
    return float(value)


def check_weight(name: str, value: object) -> float:
    """Return `value` as a finite, non-negative float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, found {type(value).__name__}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be finite and not negative, found {value}")
    return float(value)


def check_local_steps(steps: object, rate: object) -> tuple[int, float]:
    """Return the local steps and their learning rate, which several steps need and one does not."""
    steps = check_count("local_steps", steps)
    if rate is None:
        if steps > 1:
            raise ValueError(f"local_lr must be given with local_steps={steps}, found None")
        return steps, 0.0
    checked = check_weight("local_lr", rate)
    if checked == 0:
        raise ValueError(f"local_lr must be positive, found {rate}")
    return steps, checked


def check_bounds(bounds: object) -> tuple[float, float] | None:
    """Return a pair low < high, or None."""
    if bounds is None:
        return None
    try:
        low, high = (float(bound) for bound in cast(Iterable, bounds))
    except (TypeError, ValueError):
        raise TypeError(f"bounds must be a pair of numbers or None, found {bounds!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"bounds must be finite with low < high, found ({low}, {high})")
    return low, high


def check_shape(input_shape: object) -> tuple[int, ...]:
    """Return the shape of one input, without the batch."""
    if isinstance(input_shape, int):
        input_shape = (input_shape,)
    try:
        shape = tuple(int(size) for size in cast(Iterable, input_shape))
    except (TypeError, ValueError):
        raise TypeError(f"input_shape must be a sequence of ints, found {input_shape!r}") from None
    if not shape or min(shape) < 1:
        raise ValueError(f"input_shape must hold positive sizes (without the batch dimension), found {shape}")
    return shape


def check_model(model: object, device: torch.device | str | None) -> tuple[torch.device, list[nn.Parameter]]:
    """Return the device to work on and the parameters that take part, in order."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, found {type(model).__name__}")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            "model must have a parameter with requires_grad=True, found none: no gradient to match"
        )
    if device is not None:
        return torch.device(device), parameters
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"model must be on one device, found several ({found}); give device=")
    return devices.pop(), parameters


def check_target(
    target: object, parameters: Sequence[nn.Parameter], *, batched: bool, device: torch.device, move: bool
) -> list[Tensor | None]:
    """Return the target gradient with a leading victim dimension.

    Parameters
    ----------
    target : iterable of Tensor or None
        One entry for each of the parameters, shaped like it, with `batched` ``[V, *parameter shape]``.
    parameters : sequence of nn.Parameter
        Those that take part.
    batched : bool
        Whether the entries have a leading victim dimension.
    device : torch.device
        The model's.
    move : bool
        Whether entries may come from another one.

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
        name = f"target entry {index}"
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
    shape, own = tuple(parameter.shape), tuple(entry.shape)
    fits = own[1:] == shape and len(own) == len(shape) + 1 if batched else own == shape
    if not fits:
        expected = f"[victims, {', '.join(map(str, shape))}]" if batched else f"{list(shape)}"
        raise ValueError(f"{name} must have its parameter's shape {expected}, found {list(own)}")
    if device is not None and entry.device != device:
        raise ValueError(f"{name} must be on {device} as the model, found it on {entry.device}; give device=")


def check_labels(
    labels: object, *, victims: int, batch_size: int, batched: bool, classes: int | None, device: torch.device
) -> Tensor:
    """Return given labels as ``[V, B, ...]``.

    Whole-number labels come as ``[B]`` (shared by all victims), ``[V, B]`` or, with one image each, ``[V]``;
    floating-point ones (probabilities, regression targets) as ``[B, ...]`` or, batched, ``[V, B, ...]``. With
    `classes` (the default loss) whole numbers must lie in ``0..classes-1``.
    """
    try:
        given = torch.as_tensor(labels, device=device).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"labels must be 'infer', 'joint' or a tensor, found {labels!r}") from None
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
        low, high = int(spread.min()), int(spread.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels must lie in 0..{classes - 1} (the model's outputs), found {low if low < 0 else high}"
            )
        spread = spread.long()
    elif classes is not None and (spread.dim() != 3 or spread.shape[2] != classes):
        raise ValueError(
            f"labels must be probabilities [{batch_size}, {classes}], found shape {list(given.shape)}"
        )
    return spread


def check_start(start: Tensor, *, victims: int, restarts: int, shape: tuple[int, ...]) -> Tensor:
    """Return a given start as ``[V x restarts, *shape]``, where `shape` is ``[B, *input_shape]``.

    It may come as ``[V, restarts, *shape]``, and with one restart as ``[V, *shape]``, `shape` or
    ``[*input_shape]`` too.
    """
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


def check_callable(name: str, value: object) -> Callable:
    """Return `value`, which can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, found {type(value).__name__}")
    return value
