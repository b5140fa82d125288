"""From tensors to the tables that the kernels read: checks, copies of what does not lie densely, addresses.

What depends on shapes alone (a :class:`Frame`) is checked and copied to the device when such tensors come for
the first time and then kept for good, because a captured CUDA graph goes on reading it. Addresses change with
every allocation: a table is copied from pinned memory, without waiting, and the latest ones are kept, since a
loop gets the same blocks of memory back again and again. While a CUDA graph is being captured the addresses
travel in the parameters of small kernels instead, which the graph keeps; only tensors of new shapes cannot
be met there.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from sapag_fast.kernels import plans
from sapag_fast.kernels.plans import Limits, Plan

DTYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
KEPT_ADDRESSES = 64
WORDS = 24


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return triton.knobs.runtime.interpret


@dataclass(frozen=True, eq=False)
class Frame:
    """What follows from shapes, strides, dtype and device of both lists.

    strides: int64 [tensors, 3], the bytes between recoveries of g', g and V; 0 where one serves all.
    ordered: pairs without gaps in the same order other than row by row (channels_last, say), taken as they
    lie. loose: positions that need a contiguous copy, among the dummy and among the target tensors.
    """

    plan: Plan
    limits: Limits
    strides: Tensor
    device: torch.device
    dtype: torch.dtype
    recoveries: int
    target_recoveries: int
    layers: int
    ordered: tuple[bool, ...]
    loose_dummy: tuple[int, ...]
    loose_target: tuple[int, ...]


_frames: dict[tuple, Frame] = {}
_addresses: OrderedDict[tuple, Tensor] = OrderedDict()


def find_frame(
    dummy: Sequence[Tensor] | None,
    target: Sequence[Tensor],
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    name: str = "target",
) -> Frame:
    """The frame of these lists; without ``dummy`` the target's recoveries are the recoveries. Errors call the
    target ``name``.

    Raises ValueError for shapes, devices, lengths or layer numbers that do not fit together, TypeError for
    dtypes, RuntimeError for tensors of new shapes while a CUDA graph is being captured.
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
    _check(dummy, target, layer_of, layers, batched, name)
    first = target[0]
    if _capturing(first.device):
        raise RuntimeError(
            "these shapes are new: call once with tensors of the same shapes before capturing a CUDA graph"
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


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _check(
    dummy: Sequence[Tensor] | None,
    target: Sequence[Tensor],
    layer_of: Sequence[int],
    layers: int,
    batched: bool,
    target_name: str,
) -> None:
    """The checks of csrc/bindings.cpp, in its words."""
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
    if first.dtype not in DTYPES:
        raise TypeError(f"{name}[0]: expected float32, float64, bfloat16 or float16, found {first.dtype}")
    if first.device.type != "cuda" and not (interpreting() and first.device.type == "cpu"):
        raise ValueError(f"{name}[0]: Triton kernels need tensors on a GPU, found {first.device}")
    if batched and (first.dim() == 0 or target[0].dim() == 0):
        raise ValueError(f"{name}[0]: batched=True needs a leading recoveries' dimension")
    recoveries = first.shape[0] if batched else 1
    target_recoveries = target[0].shape[0] if batched else 1
    lead = 1 if batched else 0
    for i, g in enumerate(target):
        if dummy is not None:
            _check_alike("dummy", i, dummy[i], first, recoveries if batched else None)
        _check_alike(target_name, i, g, first, target_recoveries if batched else None)
        if dummy is None:
            continue
        if target_recoveries not in (1, recoveries):
            raise ValueError(
                f"target[{i}]: expected {recoveries} recoveries (or 1, shared by all) in the leading "
                f"dimension, found shape {_shape(g)}"
            )
        if dummy[i].shape[lead:] != g.shape[lead:]:
            raise ValueError(
                f"target[{i}]: expected shape {_shape(dummy[i])} as in dummy[{i}], found {_shape(g)}"
            )


def _check_alike(name: str, i: int, tensor: Tensor, first: Tensor, recoveries: int | None) -> None:
    if tensor.device != first.device:
        raise ValueError(f"{name}[{i}]: expected a tensor on {first.device}, found {tensor.device}")
    if tensor.dtype != first.dtype:
        raise TypeError(f"{name}[{i}]: expected {first.dtype} as in the first tensor, found {tensor.dtype}")
    if recoveries is not None and (tensor.dim() == 0 or tensor.shape[0] != recoveries):
        raise ValueError(
            f"{name}[{i}]: expected {recoveries} recoveries in the leading dimension, found shape "
            f"{_shape(tensor)}"
        )


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
    """Elements of one recovery lie side by side, and so do recoveries, unless all share one."""
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
    """Raises ValueError unless V can be written to ``out``."""
    if len(out) != len(dummy):
        raise ValueError(f"out: expected {len(dummy)} tensors, found {len(out)}")
    for i, (a, v, ordered) in enumerate(zip(dummy, out, frame.ordered, strict=True)):
        if v.shape != a.shape or v.dtype != a.dtype or v.device != a.device:
            raise ValueError(
                f"out[{i}]: expected shape {_shape(a)} and {a.dtype} on {a.device}, found {_shape(v)} and "
                f"{v.dtype} on {v.device}"
            )
        if not (v.stride() == a.stride() if ordered else v.is_contiguous()):
            raise ValueError(
                f"out[{i}]: must lie in memory as dummy does (or contiguous where dummy and target differ)"
            )


def as_they_lie(name: str, tensors: Sequence[Tensor], batched: bool) -> list[Tensor]:
    """Views of ``tensors`` that list their elements in the order of memory. Raises ValueError for one with
    gaps, or batched for one that is not contiguous."""
    for i, tensor in enumerate(tensors):
        if not (tensor.is_contiguous() or (not batched and _gapless(tensor))):
            raise ValueError(f"{name}[{i}]: expected contiguous, found stride {list(tensor.stride())}")
    return [t if t.is_contiguous() else t.as_strided((t.numel(),), (1,)) for t in tensors]


class Placed:
    """The gradients of one call as the kernels find them: ``addresses`` int64 [tensors, 3], 0 where a list is
    absent. Holds on to the copies it had to make."""

    def __init__(
        self,
        frame: Frame,
        dummy: Sequence[Tensor] | None,
        target: Sequence[Tensor],
        out: Sequence[Tensor] | None = None,
    ) -> None:
        self._held = [
            None if dummy is None else _tightened(dummy, frame.loose_dummy),
            _tightened(target, frame.loose_target),
            out,
        ]
        nothing = [0] * len(target)
        columns = [nothing if tensors is None else [t.data_ptr() for t in tensors] for tensors in self._held]
        words = tuple(word for row in zip(*columns, strict=True) for word in row)
        self.addresses = _upload_addresses(words, frame.device)


def _tightened(tensors: Sequence[Tensor], loose: tuple[int, ...]) -> Sequence[Tensor]:
    if not loose:
        return tensors
    return [t.contiguous() if i in loose else t for i, t in enumerate(tensors)]


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _upload_addresses(words: tuple[int, ...], device: torch.device) -> Tensor:
    if _capturing(device):
        # Not from the cache either: what is there may be given up while the graph still lives.
        table = torch.empty(len(words), dtype=torch.int64, device=device)
        write_all(table, words)
        return table
    # A copy is ordered with the work of its own stream alone.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    key = (words, device, stream)
    table = _addresses.get(key)
    if table is not None:
        _addresses.move_to_end(key)
        return table
    pinned = torch.tensor(words, dtype=torch.int64, pin_memory=device.type == "cuda")
    table = _addresses[key] = pinned.to(device, non_blocking=True)
    if len(_addresses) > KEPT_ADDRESSES:
        _addresses.popitem(last=False)
    return table


def write_all(table: Tensor, words: Sequence[int]) -> None:
    """Write ``words`` to the int64 ``table`` by kernels that carry them in their parameters."""
    for first in range(0, len(words), WORDS):
        some = words[first : first + WORDS]
        write_words[(1,)](table, first, len(some), *some, *[0] * (WORDS - len(some)))


_NAMES = [f"w{i}" for i in range(WORDS)]


@triton.jit(do_not_specialize=["first", "n", *_NAMES])
def write_words(
    table,
    first,
    n,
    w0: tl.int64,
    w1: tl.int64,
    w2: tl.int64,
    w3: tl.int64,
    w4: tl.int64,
    w5: tl.int64,
    w6: tl.int64,
    w7: tl.int64,
    w8: tl.int64,
    w9: tl.int64,
    w10: tl.int64,
    w11: tl.int64,
    w12: tl.int64,
    w13: tl.int64,
    w14: tl.int64,
    w15: tl.int64,
    w16: tl.int64,
    w17: tl.int64,
    w18: tl.int64,
    w19: tl.int64,
    w20: tl.int64,
    w21: tl.int64,
    w22: tl.int64,
    w23: tl.int64,
):
    """table[first + i] = w_i for i < n."""
    words = (w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11)
    more = (w12, w13, w14, w15, w16, w17, w18, w19, w20, w21, w22, w23)
    for i in tl.static_range(12):
        tl.store(table + first + i, words[i], mask=i < n)
        tl.store(table + first + 12 + i, more[i], mask=12 + i < n)
