"""What a distance keeps of its target between calls, and how it sees that the target has changed."""

import ctypes
import weakref
from dataclasses import dataclass, field
from operator import is_

import torch
from torch import Tensor, nn

from sapag_fast.distances.evaluation import BoundDistance

WINDOW = 64  # bytes that are looked at in each tensor

_address = torch._C.TensorBase.data_ptr
_size = torch._C.TensorBase.size
_stride = torch._C.TensorBase.stride


def addresses(tensors: list[Tensor]) -> list[int]:
    """Where each begins in memory."""
    return [*map(_address, tensors)]


@dataclass
class KnownTarget:
    """A target as it was given, and what follows from it alone.

    Attributes
    ----------
    given : list of (Tensor or None)
        The very tensors.
    present : list of Tensor
        Those that are present, without their graph.
    bound : BoundDistance
        The distance for this target's layers.
    fingerprint : Fingerprint or None
        Of the tensors that are present; None where nobody can tell whether they were written to.
    sums : Tensor or None
        The target's sums, float64 ``[R or 1, L, 3]``, once an evaluation has computed them.
    apart : list of int
        Addresses of the outputs and the dummy gradient that were last found to be apart.
    recoveries : tuple of int
        Their leading dimension then.
    """

    given: list[Tensor | None]
    present: list[Tensor]
    bound: BoundDistance
    fingerprint: "Fingerprint | None" = None
    sums: Tensor | None = None
    apart: list[int] = field(default_factory=list)
    recoveries: tuple[int, ...] = ()

    def is_of(self, target: list[Tensor | None]) -> bool:
        """Whether these are the very same tensors."""
        return len(target) == len(self.given) and all(map(is_, target, self.given))

    def is_still(self, target: list[Tensor | None]) -> bool:
        """Whether these are the very same tensors, and nobody is seen to have written to them."""
        return self.fingerprint is not None and self.is_of(target) and self.fingerprint.holds()

    def remember(self, sums: Tensor | None) -> None:
        """Keep the target's sums, if an evaluation had to compute them and they are no fake mode's."""
        if type(sums) is Tensor:
            self.sums = sums


class LentTarget:
    """What is known of a target whose tensors belong to others alone: they are not kept alive.

    Parameters
    ----------
    known : KnownTarget
        What a call has learnt.
    """

    def __init__(self, known: KnownTarget) -> None:
        self.references = [None if t is None else weakref.ref(t) for t in known.given]
        self.bound, self.sums = known.bound, known.sums
        self.fingerprint = None if known.fingerprint is None else known.fingerprint.of([])

    def known_again(self, target: list[Tensor | None]) -> KnownTarget | None:
        """All of it, if these are the very tensors; whether they are unchanged is for `is_still` to say."""
        if len(target) != len(self.references) or not all(map(_refers_to, self.references, target)):
            return None
        given = [t for t in target if t is not None]
        present = [t.detach() if t.requires_grad else t for t in given]
        fingerprint = None if self.fingerprint is None else self.fingerprint.of(given)
        return KnownTarget(target, present, self.bound, fingerprint, self.sums)


def _refers_to(reference: "weakref.ref[Tensor] | None", tensor: Tensor | None) -> bool:
    return tensor is None if reference is None else reference() is tensor


class Fingerprint:
    """What is seen of tensors without a pass over memory: addresses, layouts, versions, a few bytes of each.

    A GPU's bytes are not looked at: that would wait for it.

    Parameters
    ----------
    tensors : list of Tensor
        Such as `can_be_told` holds for. Whoever keeps the fingerprint keeps their present memory alive.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.addresses = addresses(tensors)
        self.layouts = [*map(_size, tensors), *map(_stride, tensors)]
        self.versions = [t._version for t in tensors]
        self.windows = [_window(t) for t in tensors if t.device.type == "cpu"]
        self.bytes = b"".join(self.windows)

    def of(self, tensors: list[Tensor]) -> "Fingerprint":
        """The same of the same tensors, which are given anew; of none, it keeps none alive."""
        copy = Fingerprint.__new__(Fingerprint)
        copy.__dict__ |= self.__dict__
        copy.tensors = tensors
        return copy

    @staticmethod
    def can_be_told(tensor: Tensor) -> bool:
        """Whether the tensor has memory and a version: those of inference mode and fake ones have not."""
        plain = type(tensor) is Tensor or type(tensor) is nn.Parameter
        return plain and not tensor.is_inference() and tensor.device.type != "meta"

    def holds(self) -> bool:
        """Whether all is as it was."""
        # Addresses come first: the memory of a storage that was resized is gone.
        return (
            [*map(_address, self.tensors)] == self.addresses
            and [*map(_size, self.tensors), *map(_stride, self.tensors)] == self.layouts
            and [t._version for t in self.tensors] == self.versions
            and b"".join(self.windows) == self.bytes
        )


def _window(tensor: Tensor) -> ctypes.Array[ctypes.c_char]:
    """The middle of a tensor's memory: one element where there are gaps between them."""
    size, bytes_each = tensor.numel(), tensor.element_size()
    if tensor.is_contiguous():
        count = min(size, WINDOW // bytes_each)
        first = (size - count) // 2
    else:
        count = 1
        first = sum(n // 2 * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (ctypes.c_char * (count * bytes_each)).from_address(tensor.data_ptr() + first * bytes_each)
