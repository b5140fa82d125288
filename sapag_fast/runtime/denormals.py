"""Denormal numbers as zero, for as long as a search through a surrogate runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch

__all__ = ["flushed_denormals"]


@contextlib.contextmanager
def flushed_denormals(flush: bool) -> Iterator[None]:
    """Have numbers too small for full precision count as zero meanwhile, if `flush`.

    Softplus with a sharp corner gives many, and they cost the CPU a hundred times an ordinary number's time.
    """
    # Division as the processor is set now: there is no asking.
    if not flush or sys.float_info.min / 2.0 == 0.0:
        yield
        return
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
