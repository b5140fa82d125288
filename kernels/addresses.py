"""The table of addresses that kernels find a call's gradients by.

Addresses change with every allocation: a table is copied from pinned memory, without waiting, and the latest
ones are kept, since a loop gets the same blocks of memory back again and again. While a CUDA graph is being
captured the addresses travel in the parameters of small kernels instead, which the graph keeps.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from .frames import Frame, capturing
from .words import write_all

KEPT_TABLES = 64
_tables: OrderedDict[tuple, Tensor] = OrderedDict()


class AddressTable:
    """The gradients of one call as the kernels find them.

    Holds on to the copies it had to make of tensors that do not lie densely.

    Attributes
    ----------
    addresses : Tensor
        int64 ``[tensors, 3]`` of g', g and V on the frame's device, 0 where a list is absent.
    """

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
        self.addresses = _uploaded(words, frame.device)


def _tightened(tensors: Sequence[Tensor], loose: tuple[int, ...]) -> Sequence[Tensor]:
    if not loose:
        return tensors
    return [t.contiguous() if i in loose else t for i, t in enumerate(tensors)]


def _uploaded(words: tuple[int, ...], device: torch.device) -> Tensor:
    if capturing(device):
        # Not from the cache either: what is there may be given up while the graph still lives.
        table = torch.empty(len(words), dtype=torch.int64, device=device)
        write_all(table, words)
        return table
    # A copy is ordered with the work of its own stream alone.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    key = (words, device, stream)
    table = _tables.get(key)
    if table is not None:
        _tables.move_to_end(key)
        return table
    pinned = torch.tensor(words, dtype=torch.int64, pin_memory=device.type == "cuda")
    table = _tables[key] = pinned.to(device, non_blocking=True)
    if len(_tables) > KEPT_TABLES:
        _tables.popitem(last=False)
    return table
