"""The optimisers' compiled operators (csrc/optimizer_bindings.cpp), and their shapes for torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sapag_fast import _C  # noqa: F401 (registers the operators)  # pyright: ignore[reportAttributeAccessIssue]

__all__ = ["BACKENDS", "adam_step", "choose_backend", "lbfgs_step", "padded_columns", "padded_products"]

BACKENDS = ("compiled", "torch")
"""The C++ kernels (CPU), and torch operations (any device)."""

_PADDING = 16  # kLbfgsPadding in csrc/cpu/lbfgs.h

lbfgs_step = torch.ops.sapag_fast.lbfgs_step.default
"""Gradient ``[R, N]``, nine tensors of memory, step length, and a verdict's action, length and next length or
None for each: the change ``[R, N]``, and the slope ``[R]`` (``[0]`` without a verdict)."""


@torch.library.register_fake("sapag_fast::lbfgs_step")
def _fake_lbfgs_step(
    gradient: Tensor,
    steps: Tensor,
    changes: Tensor,
    products: Tensor,
    slot: Tensor,
    pairs: Tensor,
    calls: Tensor,
    scale: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    action = rest[3]
    return torch.empty_like(gradient), scale.new_empty(scale.shape if action is not None else (0,))


adam_step = torch.ops.sapag_fast.adam_step.default
"""Gradient, mean and square ``[R, N]``, calls ``[R]``, options: the change ``[R, N]``."""


@torch.library.register_fake("sapag_fast::adam_step")
def _fake_adam_step(gradient: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(gradient)


def choose_backend(requested: str | None, device: torch.device | str, dtype: torch.dtype) -> str:
    """`requested`, or the device's own: ``compiled`` on the CPU, ``torch`` elsewhere.

    Raises
    ------
    ValueError
        For an unknown name, compiled kernels elsewhere than on the CPU, or another dtype than float32 and
        float64.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype: expected float32 or float64, found {dtype}")
    on_cpu = torch.device(device).type == "cpu"
    name = requested or ("compiled" if on_cpu else "torch")
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, found {name!r}")
    if name == "compiled" and not on_cpu:
        raise ValueError(f"backend: 'compiled' needs variables on the CPU, found {device}")
    return name


def padded_columns(size: int) -> int:
    """Elements between history rows: an odd number of paddings.

    Rows that are a multiple of a page long would fall into the same few sets of the caches.
    """
    return (-(-size // _PADDING) // 2 * 2 + 1) * _PADDING


def padded_products(history: int) -> int:
    """Elements between rows of the products."""
    return -(-history // (_PADDING // 2)) * (_PADDING // 2)
