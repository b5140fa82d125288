"""One program a segment, for segments that fit in a program's registers.

A segment is a long run and a short one: a weight and its bias (or a single tensor).

1. Read g' and g of both runs, once.                                          8 B/element read
2. Sums over the long run and the short one, in float64; rows of the tile beyond the run's end are skipped.
3. The target's sums come from the cache; Σ g² over all layers of the row decides which segments carry weight.
4. The segment's share of D and its coefficients, in float64 scalars.
5. V from the registers of stage 1.                                           4 B/element written

(Bytes for float32; half for bfloat16 and float16.) Tables are int64:
addresses [tensors, 3] of g', g and V; strides [tensors, 3] the bytes between their recoveries;
segments [S, 5]  layer, tensor and elements of the long run, and of the short run.
"""
# Triton's language is no Python to a type checker.
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false, reportIndexIssue=false

import triton
import triton.language as tl

from .kinds import segment_value
from .memory import address_of, affine, apply_wide, fits, fold, is_aligned, load_tile, store_tile


@triton.jit
def whole_target(row, layers, LAYER_BLOCK: tl.constexpr):
    """Σ g² over all layers of one row [L, 3] of target sums."""
    whole = tl.zeros([LAYER_BLOCK], tl.float64)
    lane = tl.arange(0, LAYER_BLOCK)
    first = 0
    while first < layers:
        layer = first + lane
        whole += tl.load(row + layer * 3 + 1, mask=layer < layers, other=0.0)
        first += LAYER_BLOCK
    return tl.sum(whole, axis=0)


@triton.jit(do_not_specialize=["count", "layers", "target_stride", "weights_stride", "variance_stride"])
def fused(
    addresses,
    strides,
    segments,
    target_sums,
    weights,
    variance,
    shares,
    count,
    layers,
    target_stride,
    weights_stride,
    variance_stride,
    bandwidth: tl.float64,
    l1_weight: tl.float64,
    KIND: tl.constexpr,
    EXTRA: tl.constexpr,
    GRADIENT: tl.constexpr,
    WEIGHTS: tl.constexpr,
    VARIANCE: tl.constexpr,
    DTYPE: tl.constexpr,
    NUMBER: tl.constexpr,
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
    LAYER_BLOCK: tl.constexpr,
):
    """Program r·count + s: shares[r, layer of s] and, if GRADIENT, V of segment s in recovery r."""
    program = tl.program_id(0)
    r = (program // count).to(tl.int64)
    segment = segments + (program % count) * 5
    layer = tl.load(segment)
    long = tl.load(segment + 1) * 3
    n = tl.load(segment + 2).to(tl.int32)
    short = tl.load(segment + 3) * 3
    m = tl.load(segment + 4).to(tl.int32)
    target_row = target_sums + r * target_stride

    # 1
    dummy_at = address_of(addresses, strides, long, r)
    target_at = address_of(addresses, strides, long + 1, r)
    out_at = address_of(addresses, strides, long + 2, r)
    wide = is_aligned(dummy_at | target_at | out_at) & (n % VEC == 0)
    dummy = ()
    target = ()
    for i in tl.static_range(ROWS):
        step = i * LANES * BYTES
        dummy += (load_tile(dummy_at + step, n - i * LANES, wide, False, DTYPE, 1, LANES, VEC),)
        target += (load_tile(target_at + step, n - i * LANES, wide, False, DTYPE, 1, LANES, VEC),)
    short_dummy_at = address_of(addresses, strides, short, r)
    short_target_at = address_of(addresses, strides, short + 1, r)
    short_out_at = address_of(addresses, strides, short + 2, r)
    short_wide = is_aligned(short_dummy_at | short_target_at | short_out_at) & (m % VEC == 0)
    short_dummy = load_tile(short_dummy_at, m, short_wide, False, DTYPE, 1, LANES, VEC)
    short_target = load_tile(short_target_at, m, short_wide, False, DTYPE, 1, LANES, VEC)

    # 2: inside of each thread first, so that few float64 numbers are alive at a time
    a = short_dummy.to(tl.float64)
    g = short_target.to(tl.float64)
    d = a - g
    square = fold(d * d, 1, LANES, VEC)
    cross = fold(d * g, 1, LANES, VEC)
    dummy_square = fold(a * a, 1, LANES, VEC)
    inner = fold(a * g, 1, LANES, VEC)
    absolute = fold(tl.abs(d), 1, LANES, VEC)
    for i in tl.static_range(ROWS):
        if n > i * LANES:
            a = dummy[i].to(tl.float64)
            g = target[i].to(tl.float64)
            d = a - g
            square += fold(d * d, 1, LANES, VEC)
            cross += fold(d * g, 1, LANES, VEC)
            dummy_square += fold(a * a, 1, LANES, VEC)
            inner += fold(a * g, 1, LANES, VEC)
            absolute += fold(tl.abs(d), 1, LANES, VEC)
    square = tl.sum(square, axis=0)
    cross = tl.sum(cross, axis=0)
    dummy_square = tl.sum(dummy_square, axis=0)
    inner = tl.sum(inner, axis=0)
    absolute = tl.sum(absolute, axis=0)

    # 3
    whole = whole_target(target_row, layers, LAYER_BLOCK)
    size = (n + m).to(tl.float64)
    target_square = tl.load(target_row + layer * 3 + 1)
    deviation = tl.load(target_row + layer * 3 + 2)
    if VARIANCE:
        deviation = size * tl.load(variance + r * variance_stride + layer)
    weight = size * 0.0 + 1.0
    if WEIGHTS:
        weight = tl.load(weights + r * weights_stride + layer)

    # 4
    share, alpha, beta, epsilon, delta = segment_value(
        square,
        cross,
        dummy_square,
        inner,
        absolute,
        target_square,
        deviation,
        size,
        weight,
        whole,
        bandwidth,
        l1_weight,
        KIND,
    )
    tl.store(shares + r * layers + layer, share)

    # 5
    if GRADIENT:
        gamma = delta * 0.0
        if fits(alpha, beta, epsilon, gamma, delta, NUMBER):
            for i in tl.static_range(ROWS):
                v = affine(dummy[i], target[i], alpha, beta, epsilon, gamma, delta, EXTRA, NUMBER)
                store_tile(out_at + i * LANES * BYTES, n - i * LANES, wide, v, False, DTYPE, 1, LANES, VEC)
            v = affine(short_dummy, short_target, alpha, beta, epsilon, gamma, delta, EXTRA, NUMBER)
            store_tile(short_out_at, m, short_wide, v, False, DTYPE, 1, LANES, VEC)
        else:
            # fmt: off
            apply_wide(dummy_at, target_at, out_at, n,
                       alpha, beta, epsilon, gamma, delta, EXTRA, DTYPE, BYTES, LANES, VEC)
            apply_wide(short_dummy_at, short_target_at, short_out_at, m,
                       alpha, beta, epsilon, gamma, delta, EXTRA, DTYPE, BYTES, LANES, VEC)
            # fmt: on
