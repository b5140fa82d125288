"""Gradients of every magnitude that float32 holds: D and V by definition, where float32 holds the answer."""

import itertools

import numpy as np
import pytest
import torch
from built_in_kinds import NATIVE
from plain_distances import layers_of, plain_distance

import sapag_fast as sf

BACKENDS = ["cpu", "reference"]
LARGEST, SMALLEST = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
# Of the elements; sums of squares of float32 reach from 1e-90 to 1e77.
SCALES = [1e-44, 1e-38, 1e-30, 1e-20, 1e-12, 1.0, 1e12, 1e20, 1e30, 3e37]


def pair(mine, theirs, shapes=((7, 5), (7,), (3, 4)), gap=None, seed=0):
    """Layers of elements of so many sizes, one for each shape; with ``gap`` near each other."""
    generator = torch.Generator().manual_seed(seed)
    target = [s * torch.randn(shape, generator=generator) for s, shape in zip(theirs, shapes, strict=True)]
    dummy = [s * torch.randn(shape, generator=generator) for s, shape in zip(mine, shapes, strict=True)]
    if gap is not None:
        dummy = [g + gap * a for g, a in zip(target, dummy, strict=True)]
    return dummy, target


def check(dummy, target, kind, value, slopes, layer_of, relative=2e-6):
    """Within a few roundings of the terms that V is put together from, or both beyond float32's range."""
    exact, gradient = plain_distance(dummy, target, kind, layer_of)
    assert close(value.item(), exact, 1e-6 * abs(exact))
    # A tensor's part of a whole gradient's angle is a difference of terms of 1/‖g'‖, in double precision.
    whole = torch.cat([t.double().flatten() for t in dummy]).norm().item()
    floor = 1e-14 / whole if kind in ("cosine", "sapag-global") else 0
    for slope, true in zip(slopes, gradient, strict=True):
        size = relative * np.max(np.abs(true), initial=0) + floor
        assert all(map(close, slope.double().numpy().flat, true.flat, itertools.repeat(size)))


def close(found, exact, slack):
    """Numbers below the smallest normal one may be flushed, those above the largest are infinite."""
    if abs(exact) + slack > LARGEST:
        return found * float(np.sign(exact)) >= 0.99 * LARGEST
    return abs(found - exact) <= slack + SMALLEST


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", NATIVE)
def test_both_sides_alike(kind, scale, backend):
    for gap in (None, 1e-3):
        dummy, target = pair([scale] * 3, [scale] * 3, gap=gap)
        found = sf.distance_and_gradient(
            dummy, target, kind, layers=layers_of(kind, (0, 0, 1)), backend=backend
        )
        check(dummy, target, kind, *found, (0, 0, 1), 2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", NATIVE)
def test_one_side_tiny_or_huge(kind, backend):
    """There is a direction in the smallest gradient, too."""
    for mine, theirs in itertools.product(SCALES, SCALES):
        dummy, target = pair([mine] * 3, [theirs] * 3)
        found = sf.distance_and_gradient(
            dummy, target, kind, layers=layers_of(kind, (0, 0, 1)), backend=backend
        )
        check(dummy, target, kind, *found, (0, 0, 1), 2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", NATIVE)
def test_mixed_in_one_table(kind, backend):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        places = torch.randint(len(SCALES), (2, 3), generator=generator)
        dummy, target = pair(*[[SCALES[i] for i in row] for row in places.tolist()], seed=seed)
        found = sf.distance_and_gradient(
            dummy, target, kind, layers=layers_of(kind, (0, 1, 2)), backend=backend
        )
        check(dummy, target, kind, *found, (0, 1, 2), 2e-5)


def test_layers_of_the_smallest_norms():
    """V of a layer of norm 1e-20 is 1e19: float32 holds it."""
    dummy, target = pair([1e-21] * 3, [1e-21] * 3)
    _, slopes = sf.distance_and_gradient(dummy, target, "sapag", layers=(0, 0, 1))
    assert all(1e18 < slope.abs().max() < 1e22 for slope in slopes)


@pytest.mark.parametrize("kind", ["sapag", "sapag-global", "layer-cosine"])
def test_the_angle_does_not_jump_where_the_candidate_fades(kind):
    """Below 1e-12 of the target's norm as above it; without elements other than zero there is no angle."""
    dummy, target = pair([1.0] * 3, [1.0] * 3)
    there, _ = sf.distance_and_gradient(dummy, target, kind)
    for factor in (1e-11, 1e-13, 1e-30):
        faded, slopes = sf.distance_and_gradient([factor * t for t in dummy], target, kind)
        assert torch.allclose(faded, there, rtol=1e-5)
        assert all(slope.any() for slope in slopes)
    _, slopes = sf.distance_and_gradient([0 * t for t in dummy], target, kind)
    assert not any(slope.any() for slope in slopes)
