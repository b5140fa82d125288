"""Attention as plain operations, in other tools' loops: PyTorch's fused kernels have no second derivative."""

from __future__ import annotations

import threading

from torch.backends import cuda as switches  # they hold for the CPU, too

__all__ = ["PLAIN_ATTENTION"]


class _PlainAttention:
    """Only the mathematical form of attention for as long as any thread is inside: the process's switches.

    What ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` does, in a hundredth of its time.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.before = (True, True, True, True)

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = (
                    switches.flash_sdp_enabled(),
                    switches.mem_efficient_sdp_enabled(),
                    switches.cudnn_sdp_enabled(),
                    switches.math_sdp_enabled(),
                )
                _switch(False, False, False, True)
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                _switch(*self.before)


def _switch(flash: bool, memory_efficient: bool, cudnn: bool, mathematical: bool) -> None:
    switches.enable_flash_sdp(flash)
    switches.enable_mem_efficient_sdp(memory_efficient)
    switches.enable_cudnn_sdp(cudnn)
    switches.enable_math_sdp(mathematical)


PLAIN_ATTENTION = _PlainAttention()
