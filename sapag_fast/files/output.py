"""Output folders, JSON and the versions that results carry."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sapag_fast._version import __version__

__all__ = ["check_new_file", "check_output", "finite_json", "versions"]


def check_output(folder: Path, overwrite: bool) -> None:
    """Raise ValueError unless the folder can be written to and, without ``overwrite``, is absent or empty."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"output folder {folder}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"output folder {folder}: {there} cannot be written to")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise ValueError(f"output folder {folder}: holds files already; name another one or pass --overwrite")


def check_new_file(path: Path, overwrite: bool) -> None:
    """Raise ValueError unless the path is a .safetensors file that can be written now."""
    if path.suffix != ".safetensors":
        raise ValueError(f"file {path}: expected a name ending in .safetensors")
    if path.exists() and not overwrite:
        raise ValueError(f"file {path}: exists already; name another one or pass --overwrite")
    if not path.parent.is_dir():
        raise ValueError(f"file {path}: folder {path.parent} does not exist")


def versions(device: torch.device) -> dict[str, str | int]:
    """Versions and the device by name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "sapag_fast": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "device": str(device),
        "device_name": name,
    }


def finite_json(value: Any) -> Any:
    """The value as JSON takes it: no nan, no infinity, no objects."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return value if isinstance(value, str | int | bool) or value is None else str(value)
