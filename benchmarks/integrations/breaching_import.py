"""Imports breaching beside a CPU build of torch, from the folder that the Makefile installs it into.

breaching imports torchvision, whose wheels on the package index hold operators for a CUDA torch. They do not
load beside a CPU build, and then torchvision misses the schemas of two operators that nothing here calls.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

import torch

__all__ = ["import_breaching"]

_FOLDER = Path(sys.prefix) / "breaching"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.lru_cache(maxsize=1)
def _declared() -> torch.library.Library:
    """The schemas; they exist for as long as this object does."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + _SCHEMA)
    return library


def _torchvision() -> None:
    """torchvision, with the schemas declared where its own operators do not load."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declared()
        importlib.import_module("torchvision")


def import_breaching() -> ModuleType:
    """breaching. Raises ImportError where it, or something that it imports, is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not _is_installed() and _FOLDER.is_dir() and str(_FOLDER) not in sys.path:
            sys.path.append(str(_FOLDER))  # last: whatever else is installed goes first
        _torchvision()
        loaded = sys.modules.get("breaching")
        if loaded is not None and getattr(loaded, "__file__", None) is None:
            del sys.modules["breaching"]  # a folder's, which was imported before
        breaching = importlib.import_module("breaching")
    if getattr(breaching, "__file__", None) is None:
        folder = next(iter(breaching.__path__))
        raise ImportError(f"breaching is not installed, found a folder of this name alone, {folder}")
    return breaching


def _is_installed() -> bool:
    """Whether there is such a package: a folder of its name beside the script is none, having no code."""
    spec = importlib.util.find_spec("breaching")
    return spec is not None and spec.origin is not None
