"""Sums over segments of any size: chunks in parallel, then a merge in the order of the chunks.

1. chunk_sums: one program a chunk of one tensor and recovery; reads g' and g (8 B/element in float32; 4 where
   only the target is asked for), adds up in float64, one lane each, and writes one row of partial sums.
   The target's moments come in the same sweep: deviations from the mean of the chunk's first tile. That tile
   is a good part of the chunk, so its mean cannot be far off in units of the chunk's own deviation, and
   Σ (g - shift)² - (Σ (g - shift))²/n loses no digits.
2. merge_sums: one program a segment; adds up its chunks' rows, and merges deviations by way of the means.

Tables are int64:
addresses [tensors, 3] of g', g and V; strides [tensors, 3] the bytes between their recoveries;
chunks [C, 4]  layer, tensor, first element, elements;
groups [G, 4]  layer, first chunk, chunk after the last, elements.
"""

import triton
import triton.language as tl

from .memory import address_of, fold, is_aligned, load_tile


@triton.jit(do_not_specialize=["count"])
def chunk_sums(
    addresses,
    strides,
    chunks,
    difference,
    moments,
    count,
    DIFFERENCE: tl.constexpr,
    EXTRA: tl.constexpr,
    MOMENTS: tl.constexpr,
    DTYPE: tl.constexpr,
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
):
    """Program r·count + c: difference[r, c] if DIFFERENCE, moments[r, c] if MOMENTS, both float64.

    6 columns of sums; mean, deviation and Σ g². Σ d and Σ|d| stay 0 without EXTRA.
    """
    program = tl.program_id(0)
    r = (program // count).to(tl.int64)
    chunk = chunks + (program % count) * 4
    tensor = tl.load(chunk + 1) * 3
    first = tl.load(chunk + 2) * BYTES
    n = tl.load(chunk + 3).to(tl.int32)
    target_at = address_of(addresses, strides, tensor + 1, r) + first
    dummy_at = target_at
    if DIFFERENCE:
        dummy_at = address_of(addresses, strides, tensor, r) + first
    aligned = is_aligned(dummy_at | target_at)
    at = tl.arange(0, ROWS)[:, None] * LANES + tl.arange(0, LANES)[None, :]

    shift = tl.zeros([], tl.float64)
    if MOMENTS:
        wide = aligned & (n >= ROWS * LANES)
        opening = load_tile(target_at, n, wide, True, DTYPE, ROWS, LANES, VEC).to(tl.float64)
        shift = tl.sum(fold(opening, ROWS, LANES, VEC), axis=0) / tl.minimum(n, ROWS * LANES).to(tl.float64)
    plain = tl.zeros([LANES // VEC], tl.float64)
    square = tl.zeros([LANES // VEC], tl.float64)
    cross = tl.zeros([LANES // VEC], tl.float64)
    dummy_square = tl.zeros([LANES // VEC], tl.float64)
    inner = tl.zeros([LANES // VEC], tl.float64)
    absolute = tl.zeros([LANES // VEC], tl.float64)
    shifted = tl.zeros([LANES // VEC], tl.float64)
    shifted_square = tl.zeros([LANES // VEC], tl.float64)
    target_square = tl.zeros([LANES // VEC], tl.float64)
    left = n
    while left > 0:
        wide = aligned & (left >= ROWS * LANES)
        target = load_tile(target_at, left, wide, True, DTYPE, ROWS, LANES, VEC)
        if DIFFERENCE:
            dummy = load_tile(dummy_at, left, wide, True, DTYPE, ROWS, LANES, VEC)
            a = dummy.to(tl.float64)
            g = target.to(tl.float64)
            d = a - g
            square += fold(d * d, ROWS, LANES, VEC)
            cross += fold(d * g, ROWS, LANES, VEC)
            dummy_square += fold(a * a, ROWS, LANES, VEC)
            inner += fold(a * g, ROWS, LANES, VEC)
            if EXTRA:
                plain += fold(d, ROWS, LANES, VEC)
                absolute += fold(tl.abs(d), ROWS, LANES, VEC)
        if MOMENTS:
            g = target.to(tl.float64)
            e = tl.where(at < left, g - shift, 0.0)
            shifted += fold(e, ROWS, LANES, VEC)
            shifted_square += fold(e * e, ROWS, LANES, VEC)
            target_square += fold(g * g, ROWS, LANES, VEC)
        dummy_at += ROWS * LANES * BYTES
        target_at += ROWS * LANES * BYTES
        left -= ROWS * LANES

    row = r * count + program % count
    if DIFFERENCE:
        out = difference + row * 6
        tl.store(out, tl.sum(plain, axis=0))
        tl.store(out + 1, tl.sum(square, axis=0))
        tl.store(out + 2, tl.sum(cross, axis=0))
        tl.store(out + 3, tl.sum(dummy_square, axis=0))
        tl.store(out + 4, tl.sum(inner, axis=0))
        tl.store(out + 5, tl.sum(absolute, axis=0))
    if MOMENTS:
        out = moments + row * 3
        size = n.to(tl.float64)
        gap = tl.sum(shifted, axis=0) / size
        tl.store(out, shift + gap)
        tl.store(out + 1, tl.sum(shifted_square, axis=0) - size * gap * gap)
        tl.store(out + 2, tl.sum(target_square, axis=0))


@triton.jit(do_not_specialize=["count", "group_count", "layers"])
def merge_sums(
    chunks,
    groups,
    difference,
    moments,
    difference_sums,
    target_sums,
    count,
    group_count,
    layers,
    DIFFERENCE: tl.constexpr,
    MOMENTS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Program r·group_count + i: the sums [r, layer of group i] from the partial sums of its chunks.

    They are rows of difference_sums [R, L, 6] and of target_sums [R, L, 3].
    """
    program = tl.program_id(0)
    r = (program // group_count).to(tl.int64)
    group = groups + (program % group_count) * 4
    layer = tl.load(group)
    first = tl.load(group + 1).to(tl.int32)
    last = tl.load(group + 2).to(tl.int32)
    lane = tl.arange(0, LANES)
    row = r * layers + layer
    if DIFFERENCE:
        part = difference + r * count * 6
        s0 = tl.zeros([LANES], tl.float64)
        s1 = tl.zeros([LANES], tl.float64)
        s2 = tl.zeros([LANES], tl.float64)
        s3 = tl.zeros([LANES], tl.float64)
        s4 = tl.zeros([LANES], tl.float64)
        s5 = tl.zeros([LANES], tl.float64)
        start = first
        while start < last:
            c = start + lane
            here = c < last
            s0 += tl.load(part + c * 6, mask=here, other=0.0)
            s1 += tl.load(part + c * 6 + 1, mask=here, other=0.0)
            s2 += tl.load(part + c * 6 + 2, mask=here, other=0.0)
            s3 += tl.load(part + c * 6 + 3, mask=here, other=0.0)
            s4 += tl.load(part + c * 6 + 4, mask=here, other=0.0)
            s5 += tl.load(part + c * 6 + 5, mask=here, other=0.0)
            start += LANES
        out = difference_sums + row * 6
        tl.store(out, tl.sum(s0, axis=0))
        tl.store(out + 1, tl.sum(s1, axis=0))
        tl.store(out + 2, tl.sum(s2, axis=0))
        tl.store(out + 3, tl.sum(s3, axis=0))
        tl.store(out + 4, tl.sum(s4, axis=0))
        tl.store(out + 5, tl.sum(s5, axis=0))
    if MOMENTS:
        part = moments + r * count * 3
        total = tl.zeros([LANES], tl.float64)
        square = tl.zeros([LANES], tl.float64)
        start = first
        while start < last:
            c = start + lane
            here = c < last
            elements = tl.load(chunks + c * 4 + 3, mask=here, other=0).to(tl.float64)
            total += elements * tl.load(part + c * 3, mask=here, other=0.0)
            square += tl.load(part + c * 3 + 2, mask=here, other=0.0)
            start += LANES
        whole = tl.sum(total, axis=0)
        mean = whole / tl.maximum(tl.load(group + 3), 1).to(tl.float64)
        deviation = tl.zeros([LANES], tl.float64)
        start = first
        while start < last:
            c = start + lane
            here = c < last
            elements = tl.load(chunks + c * 4 + 3, mask=here, other=0).to(tl.float64)
            gap = tl.load(part + c * 3, mask=here, other=0.0) - mean
            deviation += tl.load(part + c * 3 + 1, mask=here, other=0.0) + elements * gap * gap
            start += LANES
        out = target_sums + row * 3
        tl.store(out, whole)
        tl.store(out + 1, tl.sum(square, axis=0))
        tl.store(out + 2, tl.sum(deviation, axis=0))
