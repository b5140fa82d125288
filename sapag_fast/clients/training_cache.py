"""Trained weights on disk, each file named after everything that decides them."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast.files.fingerprint import fingerprint
from sapag_fast.files.tensors import read_tensors, write_tensors
from sapag_fast.models import FunctionalActivation

__all__ = ["cache_folder", "read_trained", "training_fingerprint", "write_trained"]


def training_fingerprint(
    model: nn.Module, images: Tensor, labels: Tensor, settings: Mapping[str, object]
) -> str:
    """SHA-256 of what decides the trained weights.

    That is the model's structure, code (not what its code calls) and state, the data and the settings.
    """
    state = model.state_dict()
    modules = dict(model.named_modules())
    used: list[Callable] = [type(module) for module in modules.values()]
    used += [m.function for m in modules.values() if isinstance(m, FunctionalActivation)]
    words = [
        repr(model),
        sorted({_code(kind) for kind in used}),
        [(name, module.training) for name, module in modules.items()],
        [(name, parameter.requires_grad) for name, parameter in model.named_parameters()],
        list(state),
        dict(settings),
    ]
    return fingerprint(words, [*state.values(), images, labels])


def _code(used: Callable) -> tuple[str, str]:
    """Full name and source of a class or function.

    Of torch's own, and where there is no source to read (an interactive session's), the name alone.
    ValueError for a function that its name does not tell.
    """
    used = used.func if isinstance(used, partial) else used
    named = used if hasattr(used, "__qualname__") else type(used)
    if "<" in named.__qualname__ and not isinstance(named, type):
        # Neither which lambda of a line it is nor what it closes over shows in its source.
        raise ValueError(f"cache: {named.__qualname__} could be any function; expected one of a module")
    name = f"{named.__module__}.{named.__qualname__}"
    if name.startswith("torch."):
        return name, ""
    try:
        return name, inspect.getsource(named)
    except (OSError, TypeError):
        return name, ""


def cache_folder(cache: str | Path) -> Path:
    """Make the folder, if need be. Raises ValueError where that is not possible."""
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cache {cache}: cannot be a folder: {error.strerror}") from None
    return Path(cache)


def write_trained(model: nn.Module, phase: Mapping[str, object], path: Path, name: str) -> None:
    """Write the model's state with the phase and a checksum of both."""
    state, written = model.state_dict(), json.dumps(dict(phase))
    metadata = {
        "belongs_to": name,
        "phase": written,
        "checksum": _checksum(state, written),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }
    write_tensors(path, state, metadata)


def read_trained(model: nn.Module, path: Path, name: str) -> dict[str, Any] | None:
    """Load the file into the model, if it is there and whole, and return the phase.

    A damaged file is reported as a warning of the caller's caller.
    """
    if not path.exists():
        return None
    try:
        state, metadata = read_tensors(path, "trained weight")
        if metadata.get("belongs_to") != name or "phase" not in metadata:
            raise ValueError(f"trained weight file {path}: damaged: holds something else than its name says")
        if metadata.get("checksum") != _checksum(state, metadata["phase"]):
            raise ValueError(f"trained weight file {path}: damaged: its checksum does not fit")
        phase = json.loads(metadata["phase"])
        model.load_state_dict(state)
    except ValueError as error:
        warnings.warn(f"{error}; training anew", stacklevel=3)
        return None
    return phase


def _checksum(state: dict[str, Tensor], phase: str) -> str:
    names = sorted(state)
    return fingerprint([names, phase], [state[name] for name in names])
