"""What clients send, by the model's own names: whole state dictionaries, and lists in the order of one.

A wrapper around a network puts a part of its own before the names (``module.`` of DataParallel,
``_orig_mod.`` of torch.compile), whichever side has it; buffers and frozen parameters come along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["all_by_position", "by_position", "model_names", "near_weights", "of_trained", "state_names"]

_WRAPPERS = {"module", "_orig_mod", "_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_NEAR = 0.5  # of the weights' norm: no gradient comes as close to them

Entry = TypeVar("Entry")


def model_names(model: nn.Module, given: Mapping[str, Entry]) -> dict[str, Entry]:
    """The same entries, by the model's names, a tied parameter's by its first one; as `state_names`."""
    _, first = _own_names(model)
    found = state_names(model, given)
    return {first.get(n, n): e for n, e in found.items() if first.get(n, n) == n or first[n] not in found}


def state_names(model: nn.Module, given: Mapping[str, Entry]) -> dict[str, Entry]:
    """The same entries, by the names that the model has; those that it does not know keep theirs.

    Raises
    ------
    ValueError
        Where two names stand for one parameter or buffer.
    """
    own, _ = _own_names(model)
    bare: dict[str, list[str]] = {}
    for name in own:
        bare.setdefault(_bare(name), []).append(name)
    found: dict[str, Entry] = {}
    sources: dict[str, str] = {}
    for name, entry in given.items():
        fitting = [name] if name in own else bare.get(_bare(name), [])
        known = fitting[0] if len(fitting) == 1 else name
        if known in found:
            raise ValueError(f"{sources[known]} and {name} both stand for {known}")
        found[known], sources[known] = entry, name
    return found


def of_trained(model: nn.Module, given: Mapping[str, Entry]) -> dict[str, Entry]:
    """What is given for the trainable parameters, and for names that the model does not know."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    own, _ = _own_names(model)
    named = model_names(model, given)
    return {name: entry for name, entry in named.items() if name in trained or name not in own}


def by_position(model: nn.Module, entries: Sequence[Entry], what: str, *, lead: int = 0) -> dict[str, Entry]:
    """Take those of a list that stand for trainable parameters; as `all_by_position`."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    _, first = _own_names(model)
    found: dict[str, Entry] = {}
    for name, entry in all_by_position(model, entries, what, lead=lead).items():
        if first.get(name, name) in trained:
            found.setdefault(first.get(name, name), entry)
    return found


def all_by_position(
    model: nn.Module, entries: Sequence[Entry], what: str, *, lead: int = 0
) -> dict[str, Entry]:
    """Name the entries of a list in the order of the model's parameters, or of its ``state_dict()``.

    Parameters
    ----------
    model : nn.Module
    entries : sequence
        One for each trainable parameter, for each parameter, or for each entry of the ``state_dict()``.
    what : str
        Names the list in messages.
    lead : int
        Leading dimensions of the entries beside the parameters' own.

    Returns
    -------
    dict
        By parameter and buffer.

    Raises
    ------
    ValueError
        For another number of entries, and where one of a buffer or frozen parameter has another shape.
    """
    parameters = dict(model.named_parameters())
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    state = list(model.state_dict())
    forms = {len(state): state, len(parameters): list(parameters), len(trained): trained}
    names = forms.get(len(entries))
    if names is None:
        others = [
            f"or {count}, one for each {of}"
            for count, of in ((len(parameters), "of its parameters"), (len(state), "entry of its state_dict"))
            if count != len(trained) and (count != len(parameters) or of.startswith("of"))
        ]
        more = f" ({', '.join(others)})" if others else ""
        raise ValueError(
            f"{what} must hold {len(trained)} tensors, one for each trainable parameter of the model{more}"
            f", found {len(entries)}; by name, a dictionary leaves no doubt"
        )
    own, first = _own_names(model)
    for position, (name, entry) in enumerate(zip(names, entries, strict=True)):
        if first.get(name, name) not in trained and name in own and entry is not None:
            expected, shape = list(own[name].shape), _shape(entry)[lead:]
            if shape != expected:
                raise ValueError(
                    f"{what} entry {position} stands for {name} in a list of {len(entries)}: expected shape "
                    f"{expected}, found {shape}; give a dictionary by name where the order is another"
                )
    return dict(zip(names, entries, strict=True))


@torch.no_grad()
def near_weights(model: nn.Module, entries: Mapping[str, Tensor | None]) -> bool:
    """Whether what is given for the trainable parameters are weights like the model's, and no gradient."""
    parameters = dict(model.named_parameters())
    apart = whole = 0.0
    for name, entry in entries.items():
        own = parameters[name]
        if entry is None or own.shape != entry.shape or not entry.is_floating_point():
            return False
        own = own.detach().double()
        apart += float((entry.detach().to(own.device).double() - own).square().sum())
        whole += float(own.square().sum())
    return apart < _NEAR**2 * whole


def _own_names(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parameters and buffers by all their names, and of each name the first one of the same tensor."""
    own: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    own |= dict(model.named_buffers(remove_duplicate=False))
    by_tensor: dict[int, str] = {}
    return own, {name: by_tensor.setdefault(id(tensor), name) for name, tensor in own.items()}


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _shape(entry: Any) -> list[int]:
    shape: Iterable[int] = getattr(entry, "shape", ())
    return list(shape)
