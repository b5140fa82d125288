"""`profile_attack`: the profiler's one function."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sapag_fast import checks as check
from sapag_fast.distances import operators as ops
from sapag_fast.profiler.bottleneck import bottleneck
from sapag_fast.profiler.ceilings import measure_ceilings
from sapag_fast.profiler.measure import Limits, measure
from sapag_fast.profiler.preparation import Preparation, prepare_profile
from sapag_fast.profiler.result import AttackProfile, Level
from sapag_fast.runtime.memory import free_bytes
from sapag_fast.search.options import SearchOptions, takes_search_options
from sapag_fast.victim.loss import Loss

__all__ = ["profile_attack"]

_GENERATOR_BYTES = 5056  # each search has one of its own
_MEMORY_SHARE = 0.7  # of what is free: more recoveries than fit into it are not tried


@takes_search_options
def profile_attack(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    recoveries: int | Sequence[int] = (1, 8, 64),
    evaluations: int = 100,
    seconds: float = 10.0,
    trace: str | Path | None = None,
    loss_fn: str | Loss | Callable[[Tensor, Tensor], Tensor] | None = None,
    batch_size: int = 1,
    labels: Tensor | Sequence[int] | None = None,
    device: torch.device | str | None = None,
    options: SearchOptions | None = None,
    **changes: Any,
) -> AttackProfile:
    """Where the time of an attack on `model` goes, step by step.

    It is the attack of `recover`, R restarts against the gradient of one random input and label. Steps that
    nobody watches and steps whose stages are timed take turns; what is seen layer by layer, counted or traced
    has steps of its own. An attack that is not profiled pays nothing.

    Parameters
    ----------
    model : nn.Module
        The victim network; left as it is found.
    input_shape, loss_fn, batch_size, device
        As in `recover`.
    recoveries : int or sequence of int
        R. One whose steps would take more than 70 % of the free memory, judged by the R before, is skipped.
    evaluations : int
        Steps to time each way, for each R.
    seconds : float
        For the timing of each R, and as many before it to fill the optimiser's history; five steps at least.
    trace : str or Path, optional
        Where to write a Chrome or Perfetto trace (JSON) of a few steps at the largest R.
    labels : Tensor or sequence of int, optional
        ``[B, ...]``, for models whose output is not ``[B, classes]``; None: random ones of the loss's kind.
    options, **changes : SearchOptions
        As in `recover`; restarts, memory and what ends a search early are no business of a profile.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit; the message names the argument, what was expected and what was found.
    """
    counts, limits, path = _counts(recoveries), _limits(evaluations, seconds), _trace_file(trace)
    preparation = prepare_profile(
        model,
        input_shape,
        loss_fn=loss_fn,
        batch_size=batch_size,
        labels=labels,
        options=SearchOptions.given(options, changes, profile_attack),
        device=device,
    )
    setup, device = preparation.setup, preparation.device
    levels: list[Level] = []
    skipped: dict[int, str] = {}
    with preparation.conditions():
        ceilings = measure_ceilings(device, setup.dtype, seed=setup.options.seed)
        for count in counts:
            reason = _too_many(count, levels, preparation)
            if reason is not None:
                skipped[count] = reason
                continue
            levels.append(measure(preparation, count, ceilings, limits, path))
    if not levels:
        raise ValueError(f"recoveries: {counts[0]} {skipped[counts[0]]}")
    return AttackProfile(
        model=type(model).__name__,
        input_shape=setup.input_shape,
        batch_size=setup.batch_size,
        recipe=asdict(setup.recipe),
        machine=_machine(device, setup.dtype),
        ceilings=ceilings,
        levels=tuple(levels),
        skipped=skipped,
        bottleneck=bottleneck(levels),
        warnings=setup.cautions,
    )


def _counts(recoveries: object) -> list[int]:
    given = (
        recoveries if isinstance(recoveries, Iterable) and not isinstance(recoveries, str) else [recoveries]
    )
    counts = sorted({check.check_count("recoveries", count) for count in given})
    if not counts:
        raise ValueError("recoveries must hold at least one number, found none")
    return counts


def _limits(evaluations: object, seconds: object) -> Limits:
    return Limits(check.check_count("evaluations", evaluations), check.check_positive("seconds", seconds))


def _trace_file(given: object) -> Path | None:
    """Where to write the trace; found out before the work, not after it."""
    if given is None:
        return None
    path = check.check_path("trace", given)
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"trace must be a file in an existing folder, found {str(path)!r}")
    return path


def _too_many(count: int, levels: Sequence[Level], preparation: Preparation) -> str | None:
    """Why so many recoveries are not tried: judged by those before, or by what each holds at least."""
    free = free_bytes(preparation.device)
    if levels:
        needed = levels[-1].peak_bytes / levels[-1].recoveries * count
    else:
        setup = preparation.setup
        numbers = math.prod(setup.shape) + sum(p.numel() for p in setup.network.parameters.values())
        needed = float(count * (numbers * setup.dtype.itemsize + _GENERATOR_BYTES))
    if needed <= _MEMORY_SHARE * free:
        return None
    return f"needs about {needed / 2**30:.1f} GiB of {free / 2**30:.1f} GiB that are free"


def _machine(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "type": device.type,
        "capability": None if on_gpu else ops.cpu_capability(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Its name where Linux tells, else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
