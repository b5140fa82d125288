"""A victim's model left as it is found: its buffers, and the global random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sapag_fast.runtime.randomness import forked

__all__ = ["untouched", "written_buffer"]


@contextlib.contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Give the model's buffers and the generators back as they were, whatever the block draws and writes."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    with forked(device):
        try:
            yield
        finally:
            for module, name, buffer, content in before:
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer
                if not torch.equal(buffer, content):
                    with torch.no_grad():
                        buffer.copy_(content)


def written_buffer(model: nn.Module, candidate: Tensor) -> str | None:
    """A buffer that an evaluation writes to, such as spectral norm's; None where there is none.

    Running statistics do not count: in training mode, where they are written, nothing reads them. The model
    is evaluated, to be `untouched`, only where it has other buffers.
    """
    statistics = {
        id(buffer)
        for module in model.modules()
        if isinstance(module, _NormBase)
        for buffer in module._buffers.values()
    }
    others = {name: b for name, b in model.named_buffers() if id(b) not in statistics}
    if not others:
        return None
    versions = {name: buffer._version for name, buffer in others.items()}
    with torch.no_grad():
        model(candidate.detach())
    now = dict(model.named_buffers())
    return next((n for n, b in others.items() if now.get(n) is not b or b._version != versions[n]), None)
