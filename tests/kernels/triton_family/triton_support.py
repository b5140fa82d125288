"""The Triton operators called by name of a distance, and their errors against the float64 reference."""

import os
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sapag_fast as sf
from sapag_fast.distances.kind import find_kind
from sapag_fast.distances.layering import layering, shapes_of
from sapag_fast.kernels import (
    evaluation,
    launches,
    operators,  # noqa: F401 (registers them)
    plans,
)
from sapag_fast.kernels.plans import Limits, Tile

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
OPS = torch.ops.sapag_fast_triton

# Every loop, tile and boundary within a few dozen elements.
SMALL = Limits(fused=(Tile(1, 8, 1), Tile(2, 16, 1)), chunk=Tile(1, 16, 1), tiles_a_chunk=2, vec=4)


@contextmanager
def small_limits():
    """Tiles of a few elements: where the interpreter runs, which knows no smallest one."""
    if not INTERPRETED:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "limits_for", lambda itemsize: SMALL)
        patch.setattr(launches, "MERGE_LANES", 4)
        patch.setattr(evaluation, "LAYER_BLOCK", 2)
        yield


def quick_interpreter():
    """Triton's interpreter replaces triton.language anew for every call of a kernel function, which takes
    most of the time; in a process that compiles nothing once and for all is enough. Neither does it need to
    compute every integer twice to look for overflows."""
    from triton import language
    from triton.runtime import interpreter

    interpreter._patch_lang(SimpleNamespace(__globals__={"tl": language, "core": language.core}))
    interpreter.interpreter_builder.options = replace(
        interpreter.interpreter_builder.options, sanitize_overflow=False
    )
    interpreter._patch_lang = lambda fn: SimpleNamespace(restore=lambda: None)


def right_bfloat16():
    """The interpreter's own conversions are wrong for subnormal bfloat16, and round halves up."""
    from triton import language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def converted(data, source, destination, rounding_mode):
        if (source, destination) == (tl.bfloat16, tl.float32):
            return np.frombuffer(data.tobytes(), np.uint16).astype(np.uint32).reshape(data.shape) << 16
        if (source, destination) == (tl.float32, tl.bfloat16):
            numbers = torch.from_numpy(np.ascontiguousarray(data).view(np.float32).copy())
            return numbers.bfloat16().view(torch.uint16).numpy().reshape(data.shape)
        return convert(data, source, destination, rounding_mode)

    interpreter._convert_float = converted


if INTERPRETED:
    quick_interpreter()
    right_bfloat16()


def settings_of(name, target, *, batched=False, merge_bias=True, layers=None, **options):
    """(layering, operator arguments after ``batched`` up to the cached sums)."""
    kind = find_kind(name)
    found = layering(shapes_of(target, batched), merge_bias, None if layers is None else tuple(layers))
    found = found.merged() if kind.merged else found
    weights = options.get("layer_weights")
    weights = kind.default_weights(found.layers) if weights is None else weights
    numbers = (kind.native, options.get("bandwidth") or kind.bandwidth, options.get("l1_weight", 0.01))
    rows = [None if t is None else t.to(DEVICE) for t in (weights, options.get("variance"))]
    return found, (*numbers, *rows)


def triton_distance(dummy, target, name, cached=None, **options):
    """D and V by the Triton kernels, with tensors on the kernels' device."""
    batched = options.get("batched", False)
    found, numbers = settings_of(name, target, **options)
    table = (found.layer_of, found.layers, batched)
    value, _, slopes = OPS.distance_and_gradient(dummy, target, *table, *numbers, cached)
    return value, slopes


def reference(dummy, target, name, **options):
    """The same in float64, by the reference."""
    doubles = [[t.double() for t in tensors] for tensors in (dummy, target)]
    if find_kind(name).merged:
        options.pop("layers", None)
    return sf.distance_and_gradient(*doubles, name, backend="reference", **options)


def on_device(*lists):
    return tuple([t.to(DEVICE) for t in tensors] for tensors in lists)


def error(found, exact):
    """‖found - exact‖ / ‖exact‖, 0 where both vanish."""
    size = exact.double().norm().item()
    gap = (found.double() - exact.double()).norm().item()
    return gap if size == 0 else gap / size
