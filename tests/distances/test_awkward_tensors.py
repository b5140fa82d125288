"""Gradients without elements, without dimensions, expanded, overlapping, with gaps: D and V by definition."""

import random

import numpy as np
import pytest
import torch
from awkward_tensors import EMPTY, WAYS, awkward_pair
from built_in_kinds import NATIVE
from plain_distances import layers_of, plain_distance

import sapag_fast as sf

BACKENDS = ["cpu", "reference"]
ANGLES = ("sapag", "sapag-global", "cosine", "layer-cosine")


def check(dummy, target, kind, value, slopes, layer_of):
    """D and V against the definition."""
    exact, gradient = plain_distance(dummy, target, kind, layer_of)
    assert abs(value.item() - exact) <= 1e-5 * abs(exact)
    size = max((abs(v).max() for v in gradient if v.size), default=0)
    # V of an angle vanishes where g' is a multiple of g: what is left is the rounding of terms of 1/‖g'‖.
    floor = 1e-6 / min((t.norm().item() for t in dummy if t.numel()), default=1) if kind in ANGLES else 0
    for slope, true, mine in zip(slopes, gradient, dummy, strict=True):
        assert slope.shape == mine.shape
        assert np.all(np.abs(slope.double().numpy() - true) <= 2e-5 * size + floor)


def both(dummy, target, kind, backend, layer_of, out=None):
    distance = sf.GradientDistance(kind, layers=layers_of(kind, layer_of), backend=backend)
    value, slopes = distance.distance_and_gradient(dummy, target, out)
    check(dummy, target, kind, value, slopes, layer_of)
    leaves = [t.detach().requires_grad_() for t in dummy]
    value = distance(leaves, target)
    check(dummy, target, kind, value, torch.autograd.grad(value, leaves), layer_of)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", NATIVE)
def test_nothing_in_the_first_tensor(kind, backend):
    """Where V goes has no address there."""
    both(*awkward_pair(["none", "vector"], 0), kind, backend, (0, 1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("empty", EMPTY)
def test_nothing_in_any_place(empty, place, backend):
    ways = ["plain", "vector"]
    ways.insert(place, empty)
    for kind in ("sapag", "l2", "cosine"):
        for layer_of in ((0, 1, 2), (0, 0, 1), (0, 1, 1), (0, 0, 0)):
            both(*awkward_pair(ways, 1), kind, backend, layer_of)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", NATIVE)
def test_nothing_at_all(kind, backend):
    dummy, target = awkward_pair(["none", "no rows"], 0)
    value, slopes = sf.distance_and_gradient(dummy, target, kind, backend=backend)
    assert value == 0
    assert [s.shape for s in slopes] == [(0,), (0, 3)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", sorted(WAYS))
def test_every_way_to_lie_in_memory(way, backend):
    for alike in (True, False):
        for kind in ("sapag", "sapag-global", "tag"):
            both(*awkward_pair([way, "plain", way], 2, alike=alike), kind, backend, (0, 1, 2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(40))
def test_random_lists(seed, backend):
    draw = random.Random(seed)
    ways = draw.choices(sorted(WAYS), k=draw.randint(1, 6))
    layer_of = tuple(draw.randrange(3) for _ in ways)
    dummy, target = awkward_pair(ways, seed, alike=draw.random() < 0.5)
    out = [torch.full_like(t, torch.nan, memory_format=torch.contiguous_format) for t in dummy]
    if any(o.stride() != t.stride() for o, t in zip(out, dummy, strict=True)):
        out = None  # V lies as the dummy gradient does
    both(dummy, target, draw.choice(NATIVE), backend, layer_of, out)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("recoveries", [1, 3])
@pytest.mark.parametrize("kind", NATIVE)
def test_recoveries_of_every_shape(kind, recoveries, shared, backend):
    """A number each, nothing each, and one row that stands for all."""
    generator = torch.Generator().manual_seed(5)
    shapes = [(0, 4), (), (5,), (3, 0), (2, 3)]
    dummy = [torch.randn((recoveries, *shape), generator=generator) for shape in shapes]
    dummy[2] = dummy[2][:1].expand(recoveries, 5)
    rows = 1 if shared else recoveries
    target = [torch.randn((rows, *shape), generator=generator) for shape in shapes]
    layer_of = (0, 1, 1, 2, 3)
    value, slopes = sf.distance_and_gradient(
        dummy, target, kind, layers=layers_of(kind, layer_of), batched=True, backend=backend
    )
    for r in range(recoveries):
        mine, theirs = [t[r] for t in dummy], [t[r % rows] for t in target]
        check(mine, theirs, kind, value[r], [s[r] for s in slopes], layer_of)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_recovery(backend):
    dummy, target = [torch.randn(0, 3), torch.randn(0)], [torch.randn(0, 3), torch.randn(0)]
    value, slopes = sf.distance_and_gradient(dummy, target, batched=True, backend=backend)
    assert value.shape == (0,)
    assert [s.shape for s in slopes] == [(0, 3), (0,)]
