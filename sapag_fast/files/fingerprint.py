"""SHA-256 of what decides the bits of a run: words, tensors, a model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType

import torch
from torch import Tensor, nn

__all__ = ["code_of", "fingerprint", "model_fingerprint", "structure"]


def fingerprint(words: Iterable[object], tensors: Iterable[Tensor | None]) -> str:
    """SHA-256 over words and tensors: what a checkpoint belongs to."""
    digest = hashlib.sha256()
    for word in words:
        digest.update(f"{word!r}\n".encode())
    for tensor in tensors:
        if tensor is None:
            digest.update(b"None\n")
            continue
        digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 over the model's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def structure(model: nn.Module) -> str:
    """What the fingerprint leaves out: modules, their code and settings, modes, and what is trained."""
    modes = [name for name, module in model.named_modules() if module.training]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    own = {type(module) for module in model.modules() if not type(module).__module__.startswith("torch.")}
    codes = sorted(code_of(kind.forward) for kind in own)
    settings = [
        {name: value for name, value in vars(module).items() if not name.startswith("_")}
        for module in model.modules()
    ]
    words = f"{model!r}\n{modes}\n{trained}\n{codes}\n{code_of(settings, modules=False)}"
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", words).encode()).hexdigest()


def code_of(thing: object, depth: int = 5, *, modules: bool = True) -> str:
    """Tell a function, or what can be called like one, from another by its code and the values it holds.

    Names that it looks up elsewhere are told by name alone, and so are modules without `modules`.
    """

    def inside(part: object) -> str:
        return code_of(part, depth - 1, modules=modules)

    if depth == 0 or (isinstance(thing, nn.Module) and not modules):
        return type(thing).__qualname__
    if isinstance(thing, nn.Module):
        return f"{structure(thing)} {model_fingerprint(thing)}"
    if isinstance(thing, Tensor):
        return fingerprint((), (thing,))
    if isinstance(thing, FunctionType):
        cells = [_content(cell) for cell in thing.__closure__ or ()]
        held = inside((thing.__defaults__, thing.__kwdefaults__, cells))
        return f"{thing.__module__}.{thing.__qualname__} {_bytes_of(thing.__code__)} {held}"
    if isinstance(thing, MethodType):
        return inside((thing.__func__, thing.__self__))
    if isinstance(thing, partial):
        return inside((thing.func, thing.args, thing.keywords))
    if isinstance(thing, Mapping):
        return str({str(name): inside(value) for name, value in thing.items()})
    if isinstance(thing, list | tuple):
        return str([inside(part) for part in thing])
    if isinstance(thing, set | frozenset):
        return str(sorted(inside(part) for part in thing))
    if isinstance(thing, type | BuiltinFunctionType):
        return f"{thing.__module__}.{thing.__qualname__}"
    if thing is None or isinstance(thing, bool | int | float | complex | str | bytes):
        return repr(thing)
    kind = type(thing)
    held = getattr(thing, "__dict__", None)
    call = getattr(kind, "__call__", None)  # noqa: B004 (its code is wanted, not whether there is one)
    return f"{kind.__module__}.{kind.__qualname__} {inside((call, held))}"


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # still empty: the function is called while its surroundings are made
        return None


def _bytes_of(code: CodeType) -> str:
    """SHA-256 of a function's instructions, names and constants, those of functions inside among them."""
    digest = hashlib.sha256(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    digest.update(_constant(code.co_consts).encode())
    return digest.hexdigest()


def _constant(constant: object) -> str:
    """The same words in every process: a set's order is not."""
    if isinstance(constant, CodeType):
        return _bytes_of(constant)
    if isinstance(constant, frozenset):
        return str(sorted(map(_constant, constant)))
    return str([*map(_constant, constant)]) if isinstance(constant, tuple) else repr(constant)
