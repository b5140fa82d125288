"""What the gradients of a call must be: the checks of csrc/bindings.cpp, in its words."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return triton.knobs.runtime.interpret  # pyright: ignore[reportAttributeAccessIssue]


def check_gradients(
    dummy: Sequence[Tensor] | None,
    target: Sequence[Tensor],
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    target_name: str,
) -> None:
    """Check the lists of one call; without ``dummy`` the target's recoveries are the recoveries.

    Raises
    ------
    ValueError
        For shapes, devices, lengths or layer numbers that do not fit together; it calls the target
        ``target_name``.
    TypeError
        For dtypes.
    """
    if not target:
        raise ValueError(f"{target_name}: expected at least one tensor, found none")
    if dummy is not None and len(dummy) != len(target):
        raise ValueError(
            f"dummy, target: expected the same number of gradients, found {len(dummy)} and {len(target)}"
        )
    if len(layer_of) != len(target):
        raise ValueError(
            f"layers: expected one layer number for each of {len(target)} tensors, found {len(layer_of)}"
        )
    wrong = [layer for layer in layer_of if not 0 <= layer < layers]
    if wrong:
        raise ValueError(f"layers: found layer {wrong[0]} of {layers}")
    name, first = (target_name, target[0]) if dummy is None else ("dummy", dummy[0])
    _check_first(name, first)
    if batched and (first.dim() == 0 or target[0].dim() == 0):
        raise ValueError(f"{name}[0]: batched=True needs a leading recoveries' dimension")
    target_recoveries = target[0].shape[0] if batched else None
    if dummy is None:
        for i, g in enumerate(target):
            _check_alike(target_name, i, g, first, target_recoveries)
        return
    recoveries = first.shape[0] if batched else None
    for i, (a, g) in enumerate(zip(dummy, target, strict=True)):
        _check_alike("dummy", i, a, first, recoveries)
        _check_alike(target_name, i, g, first, target_recoveries)
        _check_pair(i, a, g, recoveries)


def _check_first(name: str, first: Tensor) -> None:
    if first.dtype not in DTYPES:
        raise TypeError(f"{name}[0]: expected float32, float64, bfloat16 or float16, found {first.dtype}")
    if first.device.type != "cuda" and not (interpreting() and first.device.type == "cpu"):
        raise ValueError(f"{name}[0]: Triton kernels need tensors on a GPU, found {first.device}")


def _check_pair(i: int, a: Tensor, g: Tensor, recoveries: int | None) -> None:
    if recoveries is not None and g.shape[0] not in (1, recoveries):
        raise ValueError(
            f"target[{i}]: expected {recoveries} recoveries (or 1, shared by all) in the leading "
            f"dimension, found shape {list(g.shape)}"
        )
    lead = 0 if recoveries is None else 1
    if a.shape[lead:] != g.shape[lead:]:
        raise ValueError(
            f"target[{i}]: expected shape {list(a.shape)} as in dummy[{i}], found {list(g.shape)}"
        )


def _check_alike(name: str, i: int, tensor: Tensor, first: Tensor, recoveries: int | None) -> None:
    if tensor.device != first.device:
        raise ValueError(f"{name}[{i}]: expected a tensor on {first.device}, found {tensor.device}")
    if tensor.dtype != first.dtype:
        raise TypeError(f"{name}[{i}]: expected {first.dtype} as in the first tensor, found {tensor.dtype}")
    if recoveries is not None and (tensor.dim() == 0 or tensor.shape[0] != recoveries):
        raise ValueError(
            f"{name}[{i}]: expected {recoveries} recoveries in the leading dimension, found shape "
            f"{list(tensor.shape)}"
        )
