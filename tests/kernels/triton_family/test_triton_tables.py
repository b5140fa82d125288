"""Random segment tables against the float64 reference: sizes around every boundary, bases off alignment,
shared targets, any order of layers, what is not finite confined to its recovery."""

import math
import os
import random

import pytest
import torch
from awkward_tensors import awkward_pair
from built_in_kinds import NATIVE
from triton_support import (
    DEVICE,
    SMALL,
    error,
    on_device,
    reference,
    settings_of,
    small_limits,
    triton_distance,
)

from sapag_fast.distances.sums import target_sums

TABLES = int(os.environ.get("TABLES", "2100"))
BATCH = 100

CHUNK = SMALL.chunk.elements * SMALL.tiles_a_chunk
BOUNDARIES = [
    *(tile.elements for tile in SMALL.fused),
    *(tile.lanes for tile in SMALL.fused),
    SMALL.chunk.elements,
    CHUNK,
    2 * CHUNK,
]
SIZES = sorted({0, 1, 2, 3, 5, 7, *(b + off for b in BOUNDARIES for off in (-1, 0, 1))})
UNIT = ("sapag", "sapag-global", "cosine", "layer-cosine")


def misaligned(tensor, offset):
    """The same values at a base that is ``offset`` elements off alignment."""
    space = tensor.new_empty(tensor.numel() + offset)
    view = space[offset:].view(tensor.shape)
    return view.copy_(tensor)


def make_table(seed):
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    name = chance.choice(NATIVE)
    batched = chance.random() < 0.6
    recoveries = chance.choice([1, 1, 2, 2, 2, 3, 3, chance.randint(4, 9)]) if batched else 1
    shared = batched and chance.random() < 0.4
    tensors = chance.choice([1, 1, 2, 2, 3]) if recoveries < 3 else 1
    layers = chance.randint(1, tensors)
    layer_of = [chance.randrange(layers) for _ in range(tensors)]
    sizes = [chance.choice(SIZES) for _ in range(tensors)]
    gap = chance.choice([1.0, 1e-1, 1e-3])
    target, dummy = [], []
    for size in sizes:
        lead = (recoveries,) if batched else ()
        scale = 10.0 ** chance.randint(-2, 2)
        g = scale * (torch.randn(*((1,) if shared else lead), size, generator=generator) + 0.3)
        a = g + gap * scale * torch.randn(*lead, size, generator=generator)
        offsets = (chance.choice([0, 0, 1, 2, 3]), chance.choice([0, 0, 1, 2, 3]))
        dummy.append(misaligned(a, offsets[0]).to(DEVICE))
        target.append(misaligned(g, offsets[1]).to(DEVICE))
    options = {"batched": batched, "layers": layer_of}
    if chance.random() < 0.2 and name in ("sapag", "l2", "tag", "layer-cosine"):
        options["layer_weights"] = torch.rand(max(layer_of) + 1, generator=generator) + 0.5
    return name, dummy, target, options, chance


def check(seed):
    name, dummy, target, options, chance = make_table(seed)
    exact, slopes = reference(dummy, target, name, **options)
    cached = None
    if chance.random() < 0.7:
        found, _ = settings_of(name, target, **options)
        cached = target_sums(target, found, options["batched"])
    value, found = triton_distance(dummy, target, name, cached, **options)
    assert value.shape == exact.shape
    assert torch.allclose(value.double(), exact, rtol=1e-5, atol=1e-11), (name, value, exact)
    scale = math.sqrt(sum(s.square().sum().item() for s in slopes))
    # V of a normalised distance vanishes where g' is a multiple of g: what is left is the rounding of terms
    # of the size 1/‖g'‖.
    floor = 1e-37  # below float32's range
    if name in UNIT:
        norms = [t.norm().item() for t in dummy if t.numel()]
        floor += 40 * torch.finfo(torch.float32).eps / min(norms, default=1.0)
    for slope, true in zip(found, slopes, strict=True):
        assert slope.shape == true.shape
        assert (slope.double() - true).norm().item() <= 1e-5 * scale + floor, name
    rows = [i for i, t in enumerate(dummy) if t.numel()]
    if options["batched"] and value.numel() > 1 and rows and chance.random() < 0.3:
        spoil(name, dummy, target, options, cached, value, chance)


def spoil(name, dummy, target, options, cached, clean, chance):
    """One element of one recovery's dummy is not finite: the others keep their bits."""
    r = chance.randrange(clean.numel())
    i = chance.choice([i for i, t in enumerate(dummy) if t.numel()])
    dummy = [t.clone() for t in dummy]
    dummy[i].view(clean.numel(), -1)[r, -1] = chance.choice([math.nan, math.inf, -math.inf])
    value, _ = triton_distance(dummy, target, name, cached, **options)
    assert not math.isfinite(value[r])
    keep = [k for k in range(clean.numel()) if k != r]
    assert torch.equal(value[keep], clean[keep])


@pytest.mark.parametrize("first", range(0, TABLES, BATCH))
def test_random_tables(first):
    with small_limits():
        for seed in range(first, first + BATCH):
            try:
                check(seed)
            except Exception as caught:
                raise AssertionError(f"table {seed}") from caught


@pytest.mark.parametrize("way", ["none", "no rows", "scalar", "expanded", "overlapping", "gap"])
def test_every_way_to_lie_in_memory(way):
    """Also with nothing in the first tensor, or in all of them."""
    with small_limits():
        for ways in ([way, "plain", way], [way]):
            dummy, target = (
                [t.to(DEVICE, memory_format=torch.preserve_format) for t in tensors]
                for tensors in awkward_pair(ways, 3)
            )
            for name in ("sapag", "tag"):
                layers = range(len(ways))
                exact, slopes = reference(dummy, target, name, layers=layers)
                value, found = triton_distance(dummy, target, name, layers=layers)
                assert value.item() == pytest.approx(exact.item(), rel=1e-5)
                size = max(s.norm().item() for s in slopes)
                for slope, true in zip(found, slopes, strict=True):
                    assert slope.shape == true.shape
                    assert (slope.double() - true).norm().item() <= 1e-5 * size + 2e-6


@pytest.mark.parametrize("scale", [1e-40, 1e-21, 1e21, 1e37])
def test_every_magnitude(scale):
    """Coefficients beyond float32, of fused and of chunked layers; V where float32 holds it."""
    generator = torch.Generator().manual_seed(7)
    pieces = [(5, 1.0), (3, 1e-3), (70, 1.0)]
    target, dummy = ([(scale * s * torch.randn(n, generator=generator)) for n, s in pieces] for _ in "ab")
    dummy, target = on_device(dummy, target)
    with small_limits():
        for name in NATIVE:
            for mine in (
                dummy,
                [t * 1e-13 for t in dummy],
                [g + 1e-3 * a for a, g in zip(dummy, target, strict=True)],
            ):
                exact, slopes = reference(mine, target, name, layers=range(3))
                value, found = triton_distance(mine, target, name, layers=range(3))
                assert torch.equal(value, exact.float()) or error(value, exact) <= 1e-6
                for slope, true in zip(found, slopes, strict=True):
                    near = torch.isclose(slope, true.float(), rtol=1e-4, atol=1e-37 + 1e-5 * true.abs().max())
                    assert near.all(), (name, slope, true)


def test_layers_in_many_blocks_and_chunks():
    """More layers than the coefficients' kernel holds at a time, more chunks than a merge adds at a time."""
    generator = torch.Generator().manual_seed(0)
    sizes = [5, 700, 3, 40, 1, 33, 2000]
    target = [torch.randn(size, generator=generator) for size in sizes]
    dummy = [g + 0.1 * torch.randn(g.shape, generator=generator) for g in target]
    dummy, target = [t.to(DEVICE) for t in dummy], [t.to(DEVICE) for t in target]
    layers = [6, 0, 5, 1, 4, 2, 3]
    with small_limits():
        for name in ("sapag", "tag", "cosine"):
            exact, slopes = reference(dummy, target, name, layers=layers)
            value, found = triton_distance(dummy, target, name, layers=layers)
            assert value.item() == pytest.approx(exact.item(), rel=1e-6)
            for slope, true in zip(found, slopes, strict=True):
                assert (slope.double() - true).norm() <= 1e-5 * true.norm() + 1e-6
