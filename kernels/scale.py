"""V times the gradient that flows into D, in place, in one launch that seldom has anything to do.

1. Every program looks at the factors of all recoveries, and leaves where all are 1, as in nearly every loop.
2. Otherwise the programs share out the chunks of all recoveries; a recovery whose factor is 1 is left alone.
   8 B/element in float32: V is read and written.

The factor is read on the device: nobody waits for it. Tables as in kernels/sums.py; V is the second column.
"""

import triton
import triton.language as tl

from .memory import address_of, is_aligned, load_tile, store_tile


@triton.jit(do_not_specialize=["items", "count", "factors", "stride"])
def scale(
    addresses,
    strides,
    chunks,
    grad,
    items,
    count,
    factors,
    stride,
    DTYPE: tl.constexpr,
    NUMBER: tl.constexpr,
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
    FACTOR_BLOCK: tl.constexpr,
):
    """Item r·count + c, of ``items``: chunk c of recovery r times grad[r·stride], in NUMBER.

    grad is float32 or float64 and has ``factors`` numbers.
    """
    # 1
    lane = tl.arange(0, FACTOR_BLOCK)
    other = tl.zeros([FACTOR_BLOCK], tl.int32)
    first = 0
    while first < factors:
        r = (first + lane).to(tl.int64)
        factor = tl.load(grad + r * stride, mask=r < factors, other=1.0)
        other += (factor != 1.0).to(tl.int32)  # so is NaN
        first += FACTOR_BLOCK
    # 2
    item = tl.program_id(0)
    last = tl.where(tl.sum(other, axis=0) > 0, items, 0)
    while item < last:
        r = (item // count).to(tl.int64)
        factor = tl.load(grad + r * stride)
        if factor != 1.0:
            chunk = chunks + (item % count) * 4
            at = address_of(addresses, strides, tl.load(chunk + 1) * 3 + 1, r) + tl.load(chunk + 2) * BYTES
            aligned = is_aligned(at)
            left = tl.load(chunk + 3).to(tl.int32)
            while left > 0:
                wide = aligned & (left >= ROWS * LANES)
                slope = load_tile(at, left, wide, True, DTYPE, ROWS, LANES, VEC)
                scaled = slope.to(NUMBER) * factor.to(NUMBER)
                store_tile(at, left, wide, scaled, True, DTYPE, ROWS, LANES, VEC)
                at += ROWS * LANES * BYTES
                left -= ROWS * LANES
        item += tl.num_programs(0)
