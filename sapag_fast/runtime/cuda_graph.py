"""A step as a CUDA graph: captured once, replayed as one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["WORTH_CAPTURING", "captured"]

WORTH_CAPTURING = 16
"""Steps from which a capture, which takes a few of them for itself, pays."""
_WARM_UP = 3


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`step` as a graph's replay on a GPU, `step` itself elsewhere or where it cannot be captured.

    The step must read and write tensors that stay where they are, and must not wait for the device. It runs
    a few times before the capture, which count as steps: the result makes up for them.

    Returns
    -------
    callable
        Each call is one step; the first ones return at once, as often as the step has run already.
    """
    if device.type != "cuda":
        return step
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.device(device), torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    done = _WARM_UP
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph):
            step()
    except RuntimeError:  # something in the user's network waits for the device
        torch.cuda.synchronize(device)
        replay = step
    else:
        replay = graph.replay

    def run() -> None:
        nonlocal done
        if done:
            done -= 1
        else:
            replay()

    return run
