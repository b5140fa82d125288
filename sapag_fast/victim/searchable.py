"""Models as clients have them, and what of them is searched.

Wrappers (DataParallel, DistributedDataParallel, torch.compile) give way to the module inside, whose numbers
are the same. Weights in half precision are searched as float32 copies, and embeddings with sparse gradients
with dense ones, both in a copy of the network that shares all other tensors. What has no second derivative,
or no weights of its own, is refused by name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sapag_fast.victim.cautions import Caution

__all__ = [
    "LOW_PRECISION",
    "NoSecondDerivativeError",
    "Searchable",
    "causes_named",
    "low_precision",
    "searchable",
    "unwrapped",
]

LOW_PRECISION = "low-precision"
"""Kind of the caution of numbers in half precision."""

_LOW = (torch.bfloat16, torch.float16)
_LOW_NAMES = {"bfloat16", "float16"}  # torch's and NumPy's
_SPARSE = (nn.Embedding, nn.EmbeddingBag)


Part = TypeVar("Part")


class NoSecondDerivativeError(ValueError):
    """A part of the network has no second derivative, which the search needs."""


@dataclass(frozen=True)
class Searchable:
    """What is searched of a model.

    Attributes
    ----------
    model : nn.Module
        The model itself, the module inside its wrappers, or a copy that shares tensors with it.
    cautions : tuple of Caution
        What makes recoveries worse than they look.
    """

    model: nn.Module
    cautions: tuple[Caution, ...] = ()
    _copies: Mapping[int, Any] = field(default_factory=dict, repr=False)

    def counterpart(self, module: Part) -> Part:
        """The part of what is searched that stands for this part of the model; None for None."""
        return self._copies.get(id(module), module)


def searchable(model: nn.Module) -> Searchable:
    """Unwrap a model, and copy what has to be another way for a search; most models stay themselves.

    Raises
    ------
    ValueError
        For scripted, sharded and quantised modules, and where a copy is needed and cannot be made; the
        message says what to pass instead.
    """
    if not isinstance(model, nn.Module):  # its own check refuses it
        return Searchable(model)
    model = unwrapped(model)
    low = _low_names(model)
    if not low and not any(map(_needs_copy, model.modules())):
        return Searchable(model)
    copies = _copied(model)
    copied = copies[id(model)]
    for module in copied.modules():
        if isinstance(module, _SPARSE):
            module.sparse = False
    return Searchable(copied, _precision_caution(model, low), copies)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside a model's wrappers.

    Raises
    ------
    ValueError
        For scripted, sharded and quantised modules; the message says what to pass instead.
    """
    while (inner := _inside(model)) is not None:
        model = inner
    for name, module in model.named_modules():
        _check_kind(name, module)
    return model


def low_precision(target: object) -> tuple[Caution, ...]:
    """The caution of target gradients that came in half precision; none for others."""
    entries = target.values() if isinstance(target, Mapping) else target
    given = entries if isinstance(entries, Iterable) else ()
    found = sorted({kind for entry in given if (kind := _kind(entry)) in _LOW_NAMES})
    if not found:
        return ()
    message = (
        f"the gradient came as {', '.join(found)}: its numbers are rounded, so that the distance stays above "
        "zero and fine detail is lost; if the client has it in float32, take that"
    )
    return (Caution(LOW_PRECISION, "", message),)


@contextmanager
def causes_named() -> Iterator[None]:
    """Have what PyTorch says of missing second derivatives name the cause and what to do.

    Raises
    ------
    NoSecondDerivativeError
        In place of the error.
    """
    try:
        yield
    except (RuntimeError, TypeError) as error:
        words = _named_cause(str(error))
        if words is None:
            raise
        raise NoSecondDerivativeError(f"model: {words}") from error


def _kind(entry: Any) -> str:
    return str(getattr(entry, "dtype", "")).removeprefix("torch.")


def _named_cause(message: str) -> str | None:
    first = (message.strip().splitlines() or [""])[0]
    if "use_reentrant=True" in message:
        return (
            "it checkpoints activations with use_reentrant=True, which has no second derivative; give "
            "torch.utils.checkpoint use_reentrant=False, or switch checkpointing off"
        )
    if "does not currently support double backward" in message:
        return (
            "a part of it is compiled (torch.compile), which has no second derivative; pass the network "
            "without torch.compile"
        )
    if message.startswith("dummy[") and "torch.sparse" in message:
        return (
            "the gradient of an embedding comes sparse (F.embedding with sparse=True); give it sparse=False, "
            "which changes no number"
        )
    if ("derivative for" in message and "not implemented" in message) or "ouble backward" in message:
        return f"a layer of it has no second derivative, which the search needs ({first})"
    return None


def _inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps; None where there is none."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return module.module
    compiled = type(module).__name__ == "OptimizedModule"
    return dict(module.named_children()).get("_orig_mod") if compiled else None


def _check_kind(name: str, module: nn.Module) -> None:
    where = f" ({name})" if name else ""
    kinds = [(kind.__module__, kind.__name__) for kind in type(module).__mro__]
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"model: found a scripted module{where} (torch.jit.script or trace), whose weights cannot be put "
            "in place and out again; pass the nn.Module that it was made from, with its state_dict loaded"
        )
    if any(path.startswith("torch.distributed.") and "FSDP" in kind.upper() for path, kind in kinds) or any(
        kind == "FullyShardedDataParallel" for _, kind in kinds
    ):
        raise ValueError(
            f"model: found a sharded module{where} (FSDP), of which each process has a part; pass the plain "
            "nn.Module with the full state_dict loaded"
        )
    if any(".quantized." in f"{path}." for path, _ in kinds):
        raise ValueError(
            f"model: found a quantised module{where} of kind {type(module).__name__}, which has no gradient; "
            "pass the network as it was trained, before it was quantised"
        )
    for own, parameter in module._parameters.items():
        if type(parameter).__name__ == "DTensor":
            raise ValueError(
                f"model: parameter {f'{name}.{own}'.lstrip('.')} is distributed (DTensor), of which each "
                "process has a part; pass the plain nn.Module with the full state_dict loaded"
            )


def _low_names(model: nn.Module) -> dict[str, torch.dtype]:
    """Names and types of parameters and buffers in half precision."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.dtype for name, tensor in named if tensor.dtype in _LOW}


def _needs_copy(module: nn.Module) -> bool:
    compiled = getattr(module, "_compiled_call_impl", None) is not None  # by module.compile()
    return _inside(module) is not None or compiled or (isinstance(module, _SPARSE) and module.sparse)


def _copied(model: nn.Module) -> dict[int, Any]:
    """Copies of all modules by identity, without wrappers; tensors are shared but those in half precision."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        memo[id(tensor)] = _widened(tensor) if tensor.dtype in _LOW else tensor
    wrappers = [(m, inner) for m in model.modules() if (inner := _inside(m)) is not None]
    try:
        for wrapper, inner in reversed(wrappers):  # the innermost first
            memo[id(wrapper)] = copy.deepcopy(inner, memo)
        copy.deepcopy(model, memo)
    except Exception as error:
        raise ValueError(
            "model: it has parts in half precision, sparse or compiled, of which the search needs a copy, "
            f"and cannot be copied ({type(error).__name__}: {error}); pass it in float32 (model.float()), "
            "with dense gradients and not compiled"
        ) from error
    return memo


def _widened(tensor: Tensor) -> Tensor:
    wide = tensor.detach().float()
    return (
        nn.Parameter(wide, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else wide
    )


def _precision_caution(model: nn.Module, low: Mapping[str, torch.dtype]) -> tuple[Caution, ...]:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in low if name in trained))
    if not modules:
        return ()
    kinds = ", ".join(sorted({str(kind) for name, kind in low.items() if name in trained}))
    message = (
        f"weights are {kinds} ({modules[0] or 'the model itself'}{' and more' if len(modules) > 1 else ''}): "
        "the search takes float32 copies of them, and the client's gradient was rounded, so that the "
        "distance stays above zero and fine detail is lost; if the client trained in float32, call "
        "model.float()"
    )
    return (Caution(LOW_PRECISION, modules[0], message, modules=tuple(modules)),)
