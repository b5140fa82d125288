"""How the Triton family lays its launches out."""

import pytest

pytest.importorskip("triton", reason="the Triton kernels need triton")

from sapag_fast.kernels.plans import Limits, Tile, limits_for, make_plan

LIMITS = Limits(fused=(Tile(2, 8, 1), Tile(4, 16, 1)), chunk=Tile(2, 16, 1), tiles_a_chunk=2, vec=4)


@pytest.mark.parametrize(
    ("sizes", "layer_of", "tiles"),
    [
        ([16, 8], [0, 0], [LIMITS.fused[0]]),
        ([8, 16], [0, 0], [LIMITS.fused[0]]),  # the longer one first, whatever their order
        ([16, 9], [0, 0], [LIMITS.fused[1]]),
        ([17], [0], [LIMITS.fused[1]]),
        ([64, 16], [0, 0], [LIMITS.fused[1]]),
        ([64, 17], [0, 0], []),
        ([65], [0], []),
        ([4, 4, 4], [0, 0, 0], []),
        ([4, 0, 4], [0, 0, 0], [LIMITS.fused[0]]),
        ([0], [0], []),
    ],
)
def test_which_layers_are_fused(sizes, layer_of, tiles):
    plan = make_plan(sizes, layer_of, 1, LIMITS)
    assert [tile for tile, _ in plan.fused] == tiles
    assert plan.chunked.tolist() == [0 if tiles else 1]


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ([10, 60, 50], [0, 3]),  # a launch less for one small segment
        ([10, 60], [0, 2]),
        ([10, 60, 9, 11], [3, 1]),  # many small ones keep the tile of their size
        ([10, 9], [2, 0]),
    ],
)
def test_few_small_segments_join_the_larger_tile(sizes, counts):
    plan = make_plan(sizes, range(len(sizes)), len(sizes), LIMITS)
    found = {tile: segments.shape[0] for tile, segments in plan.fused}
    assert [found.get(tile, 0) for tile in LIMITS.fused] == counts
    layers = sorted(row[0] for _, segments in plan.fused for row in segments.tolist())
    assert layers == list(range(len(sizes)))


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_small_tiles_fit_into_the_larger_ones(itemsize):
    small, large = limits_for(itemsize).fused
    assert small.elements <= large.elements
    assert small.lanes <= large.lanes


def test_every_element_is_in_one_place():
    sizes, layer_of = [5, 200, 0, 63, 64, 65, 16, 3], [2, 0, 5, 3, 3, 2, 1, 1]
    plan = make_plan(sizes, layer_of, 6, LIMITS)
    assert plan.sizes.tolist() == [200, 19, 70, 127, 0, 0]
    met = [set() for _ in sizes]
    for layer, tensor, start, length in plan.every.chunks.tolist():
        assert layer == layer_of[tensor]
        assert 0 < length <= 64
        assert met[tensor].isdisjoint(range(start, start + length))
        met[tensor].update(range(start, start + length))
    assert [len(elements) for elements in met] == sizes
    for layer, first, last, elements in plan.every.groups.tolist():
        rows = plan.every.chunks[first:last].tolist()
        assert {row[0] for row in rows} <= {layer}
        assert sum(row[3] for row in rows) == elements == plan.sizes[layer]
    small = {row[0] for _, segments in plan.fused for row in segments.tolist()}
    assert {row[0] for row in plan.small.groups.tolist()} == small
    assert {row[0] for row in plan.large.groups.tolist()} == set(range(6)) - small


@pytest.mark.parametrize("itemsize", [2, 4, 8])
def test_tiles_are_made_of_16_byte_accesses(itemsize):
    limits = limits_for(itemsize)
    assert limits.vec * itemsize == 16
    for tile in (*limits.fused, limits.chunk):
        assert tile.lanes == 32 * tile.warps * limits.vec
