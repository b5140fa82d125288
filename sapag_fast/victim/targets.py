"""Target gradients in the forms in which clients share them: lists, by name, as arrays, sparse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.files.parameter_names import by_position, near_weights, of_trained

__all__ = ["TargetGradient", "as_tensor", "checked_target", "entries_of", "kept"]

TargetGradient = Iterable[Any] | Mapping[str, Any]
"""Tensors, NumPy arrays and None: in the order of the parameters, or by name."""


def checked_target(
    target: object,
    model: nn.Module,
    parameters: Sequence[Tensor],
    *,
    batched: bool,
    device: torch.device,
    move: bool,
) -> list[Tensor | None]:
    """Return the target gradient with a leading victim dimension, for each of the trainable parameters.

    Parameters
    ----------
    target : mapping or iterable of Tensor, ndarray or None
        See `recover`.
    model : nn.Module
        Whose trainable parameters are the `parameters`.
    batched, device, move
        As of `check_target`.

    Raises
    ------
    TypeError, ValueError
        As `check_target` does, and for names and numbers of entries that do not fit the model.
    """
    if isinstance(target, np.ndarray | bytes):
        raise TypeError(f"target must be a sequence of tensors, found {type(target).__name__}")
    given = kept(target)
    plain = isinstance(given, list) and all(entry is None or isinstance(entry, Tensor) for entry in given)
    if isinstance(given, list) and (not plain or len(given) != len(parameters)):
        named = by_position(model, given, "target", lead=int(batched))
    elif isinstance(target, Mapping):
        named = _by_name(model, target)
    else:
        dense = [_dense(entry) for entry in given] if isinstance(given, list) else target
        return check.check_target(dense, parameters, batched=batched, device=device, move=move)
    called = [
        f"target[{n!r}]" if isinstance(target, Mapping) else f"target entry {i}" for i, n in enumerate(named)
    ]
    entries = {
        name: as_tensor(words, entry, device)
        for words, (name, entry) in zip(called, named.items(), strict=True)
    }
    if not batched and near_weights(model, entries):
        raise ValueError(
            "target must be a gradient, found numbers close to the model's weights: of parameters before and "
            "after, sapag_fast.update_from makes one"
        )
    return check.check_target(
        list(entries.values()), parameters, batched=batched, device=device, move=move, names=called
    )


def kept(target: Any) -> Any:
    """A list of what can be iterated over once, such as a generator; other things as they are."""
    return list(target) if isinstance(target, Iterable) and not _is_one(target) else target


def entries_of(model: nn.Module, given: object, what: str, device: torch.device) -> dict[str, Tensor | None]:
    """Dense tensors for the trainable parameters, of a dictionary by name or of a list.

    Raises
    ------
    TypeError, ValueError
        For what is neither, and where names, numbers or shapes do not fit the model.
    """
    if isinstance(given, Mapping):
        named = _by_name(model, given, what)
    elif isinstance(given := kept(given), list):
        named = by_position(model, given, what)
    else:
        raise TypeError(f"{what} must be a state_dict or a list of tensors, found {type(given).__name__}")
    parameters = dict(model.named_parameters())
    entries = {name: as_tensor(f"{what}[{name!r}]", entry, device) for name, entry in named.items()}
    for name, entry in entries.items():
        expected = list(parameters[name].shape)
        if entry is not None and list(entry.shape) != expected:
            raise ValueError(f"{what}[{name!r}] must have shape {expected}, found {list(entry.shape)}")
    return entries


def as_tensor(name: str, entry: Any, device: torch.device) -> Tensor | None:
    """A dense tensor of a tensor or array, the array's on the device; None stays None."""
    if entry is None:
        return None
    if isinstance(entry, Tensor):
        return _dense(entry)
    if not isinstance(entry, np.ndarray | np.generic):
        raise TypeError(f"{name} must be a tensor or None, found {type(entry).__name__}")
    array = np.asarray(entry)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold floating-point numbers, found an array of {array.dtype}")
    try:
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        return torch.from_numpy(native).to(device)
    except TypeError:
        raise TypeError(f"{name} must hold numbers that torch has, found an array of {array.dtype}") from None


def _dense(entry: Any) -> Any:
    """The gradient of an embedding with ``sparse=True``, as a dense tensor."""
    sparse = isinstance(entry, Tensor) and entry.layout in (torch.sparse_coo, torch.sparse_csr)
    return entry.detach().to_dense() if sparse else entry


def _is_one(target: object) -> bool:
    """Whether something that can be iterated over is one entry, or by name, and no list."""
    return isinstance(target, Tensor | np.ndarray | Mapping | str | bytes)


def _by_name(model: nn.Module, given: Mapping, what: str = "target") -> dict[str, Any]:
    """In the order of the trainable parameters.

    Raises
    ------
    TypeError, ValueError
        For names that the model does not have, and where an entry is missing.
    """
    if not all(isinstance(name, str) for name in given):
        raise TypeError(
            f"{what} must be a sequence of tensors, or a dictionary of them by parameter name, found a "
            f"{type(given).__name__} with other keys"
        )
    try:
        named = of_trained(model, given)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    missing = [name for name in trained if name not in named]
    unknown = [name for name in named if name not in trained]
    faults = [f"{_some(missing)} missing (None stands for one that was not shared)"] if missing else []
    faults += [f"{_some(unknown)} unknown to the model"] if unknown else []
    if faults:
        raise ValueError(
            f"{what} must have an entry for each of {len(trained)} trainable parameters, such as "
            f"{trained[0]}, found {'; '.join(faults)}"
        )
    return {name: named[name] for name in trained}


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
