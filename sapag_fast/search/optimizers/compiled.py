"""The optimisers' compiled operators (csrc/optimizer_bindings.cpp), and their shapes for torch.compile."""

import torch

from sapag_fast import _C  # noqa: F401 (registers the operators)

__all__ = ["BACKENDS", "adam_step", "choose_backend", "lbfgs_step", "padded_columns", "padded_products"]

BACKENDS = ("compiled", "torch")
"""The C++ kernels (CPU), and torch operations (any device)."""

_PADDING = 16  # kLbfgsPadding in csrc/cpu/lbfgs.h

lbfgs_step = torch.ops.sapag_fast.lbfgs_step.default
adam_step = torch.ops.sapag_fast.adam_step.default


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
    """Elements between history rows: an odd number of paddings, so that rows which would be a multiple of a
    page long do not fall into the same few sets of the caches."""
    return (-(-size // _PADDING) // 2 * 2 + 1) * _PADDING


def padded_products(history: int) -> int:
    """Elements between rows of the products."""
    return -(-history // (_PADDING // 2)) * (_PADDING // 2)


def _fake_lbfgs_step(gradient, steps, changes, products, slot, pairs, calls, scale, *rest):
    action = rest[3]
    return torch.empty_like(gradient), scale.new_empty(scale.shape if action is not None else (0,))


def _fake_adam_step(gradient, *rest):
    return torch.empty_like(gradient)


torch.library.register_fake("sapag_fast::lbfgs_step", _fake_lbfgs_step)
torch.library.register_fake("sapag_fast::adam_step", _fake_adam_step)
