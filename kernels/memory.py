"""How the kernels read and write gradients: tiles of ROWS × LANES elements, element i at row i // LANES.

A thread holds neighbouring elements of one lane and all rows of it, so 16-byte accesses and sums over rows
stay inside the thread. A tile goes one of three ways, which the caller's ``wide`` and the tile's length
choose at run time:

1. wide and whole: 16 bytes at a time, without a mask;
2. wide and not whole: 16 bytes at a time, masked at a multiple of VEC. Left out by WHOLE, where the caller
   takes nothing but whole tiles for wide: it costs registers (benchmarks/NOTES.md);
3. not wide: element by element, masked.

Addresses are plain int64 numbers and become pointers inside of a branch: there alone holds what the compiler
may assume about them. All ways give a tile of the same layout, so the order of all later sums, and with it
every bit of the result, is the same for aligned and misaligned gradients.
"""
# Triton's language is no Python to a type checker.
# pyright: reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def address_of(addresses, strides, i, r):
    """The address of recovery ``r`` of entry ``i`` of the tables."""
    return tl.load(addresses + i) + r * tl.load(strides + i)


@triton.jit
def is_aligned(addresses):
    """Whether runs can be accessed 16 bytes at a time; their ``addresses`` or-ed together."""
    return addresses % 16 == 0


@triton.jit
def load_tile(
    address,
    n,
    wide,
    WHOLE: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
):
    """Elements 0.. of the run at ``address``, zero from ``n`` on; [ROWS, LANES] of DTYPE."""
    at = tl.arange(0, ROWS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    if wide:
        base = tl.multiple_of((address // 16 * 16).to(tl.pointer_type(DTYPE)), 16)
        if WHOLE or n >= ROWS * LANES:
            tile = tl.load(base + at)
        else:
            tile = tl.load(base + at, mask=at < n // VEC * VEC, other=0.0)
    else:
        tile = tl.load(address.to(tl.pointer_type(DTYPE)) + at, mask=at < n, other=0.0)
    return tile


@triton.jit
def fold(tile, ROWS: tl.constexpr, LANES: tl.constexpr, VEC: tl.constexpr):
    """Sums over what one thread holds of a tile, [LANES // VEC].

    One number to keep where the thread would otherwise keep VEC, in an order that depends on the tile alone.
    """
    return tl.sum(tl.sum(tl.reshape(tile, [ROWS, LANES // VEC, VEC]), axis=2), axis=0)


@triton.jit
def store_tile(
    address,
    n,
    wide,
    tile,
    WHOLE: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
):
    """Write the first ``n`` elements of the tile to the run at ``address``."""
    at = tl.arange(0, ROWS)[:, None] * LANES + tl.arange(0, LANES)[None, :]
    rounded = tile.to(DTYPE)
    if wide:
        base = tl.multiple_of((address // 16 * 16).to(tl.pointer_type(DTYPE)), 16)
        if WHOLE or n >= ROWS * LANES:
            tl.store(base + at, rounded)
        else:
            tl.store(base + at, rounded, mask=at < n // VEC * VEC)
    else:
        tl.store(address.to(tl.pointer_type(DTYPE)) + at, rounded, mask=at < n)


@triton.jit
def affine(dummy, target, alpha, beta, epsilon, gamma, delta, SIGN: tl.constexpr, NUMBER: tl.constexpr):
    """V = α·d + β·g + ε·g' + γ + δ·sign(d), computed in NUMBER; γ and δ only if SIGN."""
    a = dummy.to(NUMBER)
    g = target.to(NUMBER)
    d = a - g
    v = alpha.to(NUMBER) * d + beta.to(NUMBER) * g + epsilon.to(NUMBER) * a
    if SIGN:
        sign = tl.where(d > 0, 1.0, tl.where(d < 0, -1.0, 0.0)).to(NUMBER)
        v += gamma.to(NUMBER) + delta.to(NUMBER) * sign
    return v


@triton.jit
def fits(alpha, beta, epsilon, gamma, delta, NUMBER: tl.constexpr):
    """Whether `affine` computes V in NUMBER without losing what float64 holds."""
    if tl.float64 == NUMBER:
        return True
    good = _fits_single(alpha) & _fits_single(beta) & _fits_single(epsilon)
    return good & _fits_single(gamma) & _fits_single(delta)


@triton.jit
def _fits_single(c):
    """Whether float32 holds a coefficient with all its digits, or any float32 times it is zero there."""
    size = tl.abs(c)
    return ((size >= 2.0**-126) & (size <= 3.4028234663852886e38)) | (size < 2.0**-280)


@triton.jit
def apply_wide(
    dummy_at,
    target_at,
    out_at,
    n,
    alpha,
    beta,
    epsilon,
    gamma,
    delta,
    SIGN: tl.constexpr,
    DTYPE: tl.constexpr,
    BYTES: tl.constexpr,
    LANES: tl.constexpr,
    VEC: tl.constexpr,
):
    """V of a run, computed in float64 and element by element: for coefficients that float32 does not hold."""
    left = n
    while left > 0:
        dummy = load_tile(dummy_at, left, False, True, DTYPE, 1, LANES, VEC)
        target = load_tile(target_at, left, False, True, DTYPE, 1, LANES, VEC)
        v = affine(dummy, target, alpha, beta, epsilon, gamma, delta, SIGN, tl.float64).to(tl.float32)
        store_tile(out_at, left, False, v, True, DTYPE, 1, LANES, VEC)
        dummy_at += LANES * BYTES
        target_at += LANES * BYTES
        out_at += LANES * BYTES
        left -= LANES
