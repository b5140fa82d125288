"""Tensors that outlive the call that makes them, made outside of the modes and transforms around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack as outside_transforms
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["outside_transforms", "real_tensors"]


@contextlib.contextmanager
def real_tensors() -> Iterator[None]:
    """Have new tensors hold numbers and lie on the CPU, in whatever default device, fake mode or torch.func.

    What is kept for later calls, or for the whole process, is to be made within.
    """
    with outside_transforms(), _disable_current_modes(), torch.device("cpu"):
        yield
