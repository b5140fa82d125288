"""V = α·d + β·g + ε·g' + γ + δ·sign(d) for the segments that went through chunks.

1. One program a chunk of one tensor and recovery; the first program takes the last chunk of the last
   recovery: what the sweep for the sums read last is what the cache still holds.
2. Read g' and g (8 B/element in float32), write V (4 B/element).
"""

import triton
import triton.language as tl

from .memory import address_of, affine, fits, is_aligned, load_tile, store_tile


@triton.jit(do_not_specialize=["count", "layers"])
def apply(
    addresses,
    strides,
    chunks,
    coefficients,
    count,
    layers,
    SIGN: tl.constexpr,
    DTYPE: tl.constexpr,
    NUMBER: tl.constexpr,
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
):
    """Program (R·count - 1) - (r·count + c): V of chunk c in recovery r; coefficients [R, L, 5] float64."""
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    r = (program // count).to(tl.int64)
    chunk = chunks + (program % count) * 4
    tensor = tl.load(chunk + 1) * 3
    first = tl.load(chunk + 2) * BYTES
    n = tl.load(chunk + 3).to(tl.int32)
    c = coefficients + (r * layers + tl.load(chunk)) * 5
    alpha = tl.load(c)
    beta = tl.load(c + 1)
    epsilon = tl.load(c + 2)
    gamma = tl.load(c + 3)
    delta = tl.load(c + 4)
    dummy_at = address_of(addresses, strides, tensor, r) + first
    target_at = address_of(addresses, strides, tensor + 1, r) + first
    out_at = address_of(addresses, strides, tensor + 2, r) + first
    aligned = is_aligned(dummy_at | target_at | out_at)
    fit = fits(alpha, beta, epsilon, gamma, delta, NUMBER)
    left = n
    while left > 0:
        wide = aligned & (left >= ROWS * LANES)
        dummy = load_tile(dummy_at, left, wide, True, DTYPE, ROWS, LANES, VEC)
        target = load_tile(target_at, left, wide, True, DTYPE, ROWS, LANES, VEC)
        if fit:
            v = affine(dummy, target, alpha, beta, epsilon, gamma, delta, SIGN, NUMBER)
        else:
            v = affine(dummy, target, alpha, beta, epsilon, gamma, delta, SIGN, tl.float64).to(NUMBER)
        store_tile(out_at, left, wide, v, True, DTYPE, ROWS, LANES, VEC)
        dummy_at += ROWS * LANES * BYTES
        target_at += ROWS * LANES * BYTES
        out_at += ROWS * LANES * BYTES
        left -= ROWS * LANES
