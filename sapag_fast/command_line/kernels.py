"""What ``sapag-fast kernels`` prints: the backends of this machine, and the CUDA planner's dry run."""

import math
from collections.abc import Sequence

import torch

from sapag_fast import checks as check
from sapag_fast.distances import operators as ops
from sapag_fast.distances.layering import layering

# Streaming multiprocessors, shared memory a block may have, largest cluster: A100, H100/H200, B200.
DEVICES = {80: (108, 166912, 1), 90: (132, 232448, 8), 100: (148, 232448, 8)}
_MOST_NUMBERS = 2**40  # more than any GPU holds
SCALARS = ("float32", "float64", "bfloat16", "float16")


def backends() -> str:
    """Write a line for each family of kernels, and what it needs."""
    cuda = "built in" if ops.has_cuda_kernels() else "not built (no nvcc was found when installing)"
    triton = "importable" if ops.has_triton() else "not installed"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return "\n".join(
        (f"cpu      {ops.cpu_capability()}", f"cuda     {cuda}", f"triton   {triton}", f"GPU      {gpu}")
    )


def plan(shapes: Sequence[tuple[int, ...]], recoveries: int, scalar: str, architecture: int) -> str:
    """Tell which launches a call takes on a device of that architecture; needs no GPU.

    Parameters
    ----------
    shapes : sequence of tuple of int
        Of the gradients.
    recoveries : int
        R.
    scalar : str
        Type of the gradients, such as ``float32``.
    architecture : int
        80, 90 or 100.

    Raises
    ------
    ValueError
        For an unknown scalar type or architecture.
    """
    check.check_choice("dtype", scalar, SCALARS)
    if architecture not in DEVICES:
        known = ", ".join(map(str, DEVICES))
        raise ValueError(f"arch must be one of {known}, found {architecture}")
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) * recoveries > _MOST_NUMBERS:
        raise ValueError(f"recoveries, plan: expected at most {_MOST_NUMBERS} numbers, found more")
    layers = layering(tuple(shapes), True, None)
    multiprocessors, shared, cluster = DEVICES[architecture]
    return torch.ops.sapag_fast.plan(
        sizes,
        layers.layer_of,
        layers.layers,
        recoveries,
        scalar,
        multiprocessors,
        shared,
        cluster,
        architecture,
    )
