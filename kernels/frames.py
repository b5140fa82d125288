"""What follows from the shapes of a call's tensors: checks, a plan, copies of what does not lie densely.

A `Frame` is made and copied to the device when such tensors come for the first time and then kept for good,
because a captured CUDA graph goes on reading it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from . import plans
from .checks import check_gradients
from .plans import Limits, Plan


@dataclass(frozen=True, eq=False)
class Frame:
    """What follows from shapes, strides, dtype and device of both lists.

    Attributes
    ----------
    plan : Plan
        Which way each layer goes.
    limits : Limits
        The tiles of this dtype.
    strides : Tensor
        int64 ``[tensors, 3]``, the bytes between recoveries of g', g and V; 0 where one serves all.
    device, dtype : torch.device, torch.dtype
        Of all gradients.
    batched : bool
        Whether tensors have a leading dimension of recoveries.
    recoveries, target_recoveries, layers : int
        R (1 without that dimension), R or 1, L.
    ordered : tuple of bool
        Pairs without gaps in the same order other than row by row (channels_last, say), taken as they lie.
    loose_dummy, loose_target : tuple of int
        Positions that need a contiguous copy.
    """

    plan: Plan
    limits: Limits
    strides: Tensor
    device: torch.device
    dtype: torch.dtype
    batched: bool
    recoveries: int
    target_recoveries: int
    layers: int
    ordered: tuple[bool, ...]
    loose_dummy: tuple[int, ...]
    loose_target: tuple[int, ...]

    @property
    def number(self) -> torch.dtype:
        """What D comes in and V is computed in: float64 for float64 gradients, else float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32


_frames: dict[tuple, Frame] = {}


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured on this device."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def find_frame(
    dummy: Sequence[Tensor] | None,
    target: Sequence[Tensor],
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    name: str = "target",
) -> Frame:
    """The frame of these lists.

    Parameters
    ----------
    dummy, target : sequence of Tensor
        Without ``dummy`` the target's recoveries are the recoveries.
    layer_of : sequence of int
        The layer of each tensor.
    layers : int
        How many layers there are.
    batched : bool
        Whether tensors have a leading dimension of recoveries.
    name : str
        What errors call the target.

    Raises
    ------
    ValueError
        For shapes, devices, lengths or layer numbers that do not fit together.
    TypeError
        For dtypes.
    RuntimeError
        For tensors of new shapes while a CUDA graph is being captured.
    """
    lists = (target,) if dummy is None else (dummy, target)
    looks = tuple((t.shape, t.stride(), t.dtype, t.device) for tensors in lists for t in tensors)
    key = (looks, len(target), dummy is None, tuple(layer_of), layers, batched, plans.limits_for)
    frame = _frames.get(key)
    if frame is None:
        frame = _frames[key] = _make_frame(dummy, target, layer_of, layers, batched, name)
    return frame


def _make_frame(
    dummy: Sequence[Tensor] | None,
    target: Sequence[Tensor],
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    name: str,
) -> Frame:
    check_gradients(dummy, target, layer_of, layers, batched, name)
    first = target[0]
    if capturing(first.device):
        raise RuntimeError(
            "dummy, target: expected shapes seen before a CUDA graph is captured, found new ones; call once"
        )
    mine = target if dummy is None else dummy
    ordered = tuple(
        dummy is not None and not batched and _same_order(a, g) for a, g in zip(mine, target, strict=True)
    )
    limits = plans.limits_for(first.element_size())
    sizes = tuple(t[0].numel() if batched and t.shape[0] else 0 if batched else t.numel() for t in target)
    loose = [
        tuple(i for i, t in enumerate(tensors) if not (ordered[i] or _dense(t, batched)))
        for tensors in (mine, target)
    ]
    strides = [
        (_bytes_between(a, batched), _bytes_between(g, batched), size * g.element_size())
        for a, g, size in zip(mine, target, sizes, strict=True)
    ]
    return Frame(
        plan=_plan(sizes, tuple(layer_of), layers, limits, first.device),
        limits=limits,
        strides=torch.tensor(strides, dtype=torch.int64).to(first.device),
        device=first.device,
        dtype=first.dtype,
        batched=batched,
        recoveries=mine[0].shape[0] if batched else 1,
        target_recoveries=target[0].shape[0] if batched else 1,
        layers=layers,
        ordered=ordered,
        loose_dummy=loose[0],
        loose_target=loose[1],
    )


@cache
def _plan(
    sizes: tuple[int, ...], layer_of: tuple[int, ...], layers: int, limits: Limits, device: torch.device
) -> Plan:
    return plans.to_device(plans.make_plan(sizes, layer_of, layers, limits), device)


def _same_order(a: Tensor, b: Tensor) -> bool:
    """Both in the same order without gaps: their elements pair up as they lie."""
    return a.stride() == b.stride() and _gapless(a)


def _gapless(tensor: Tensor) -> bool:
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _dense(tensor: Tensor, batched: bool) -> bool:
    """Whether a recovery's elements lie side by side, and recoveries too, unless all share one."""
    if tensor.is_contiguous():
        return True
    shared = batched and tensor.dim() > 0 and tensor.shape[0] > 0 and tensor.stride(0) == 0
    return shared and tensor[0].is_contiguous()


def _bytes_between(tensor: Tensor, batched: bool) -> int:
    if not batched or tensor.shape[0] <= 1:
        return 0
    dense = _dense(tensor, batched)
    return (tensor.stride(0) if dense else tensor[0].numel()) * tensor.element_size()


def make_outputs(frame: Frame, dummy: Sequence[Tensor]) -> list[Tensor]:
    """Fresh tensors for V: as dummy lies where the pair is taken as it lies, else contiguous."""
    return [
        torch.empty_like(t) if ordered else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t, ordered in zip(dummy, frame.ordered, strict=True)
    ]


def check_outputs(frame: Frame, dummy: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Check that V can be written to ``out``.

    Raises
    ------
    ValueError
        Otherwise, naming the tensor.
    """
    if len(out) != len(dummy):
        raise ValueError(f"out: expected {len(dummy)} tensors, found {len(out)}")
    for i, (a, v, ordered) in enumerate(zip(dummy, out, frame.ordered, strict=True)):
        if v.shape != a.shape or v.dtype != a.dtype or v.device != a.device:
            raise ValueError(
                f"out[{i}]: expected shape {list(a.shape)} and {a.dtype} on {a.device}, "
                f"found {list(v.shape)} and {v.dtype} on {v.device}"
            )
        if not (v.stride() == a.stride() if ordered else v.is_contiguous()):
            raise ValueError(
                f"out[{i}]: must lie in memory as dummy does (or contiguous where dummy and target differ)"
            )


def as_they_lie(name: str, tensors: Sequence[Tensor], batched: bool) -> list[Tensor]:
    """Views of ``tensors`` that list their elements in the order of memory.

    Raises
    ------
    ValueError
        For one with gaps, or batched for one that is not contiguous; it calls the list ``name``.
    """
    for i, tensor in enumerate(tensors):
        if not (tensor.is_contiguous() or (not batched and _gapless(tensor))):
            raise ValueError(f"{name}[{i}]: expected contiguous, found stride {list(tensor.stride())}")
    return [t if t.is_contiguous() else t.as_strided((t.numel(),), (1,)) for t in tensors]
