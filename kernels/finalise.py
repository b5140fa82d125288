"""From sums to D and coefficients: one program a recovery, a few bytes a segment.

1. Σ g² over the recovery's layers.
2. Block by block of layers: shares of D and coefficients of the layers that went through chunks; the shares
   of fused segments are there already.
3. D is the sum of the shares, in an order that depends on the number of layers alone.
"""
# Triton's language is no Python to a type checker.
# pyright: reportInvalidTypeForm=false

import triton
import triton.language as tl

from .fused import whole_target
from .kinds import segment_value


@triton.jit(do_not_specialize=["layers", "target_stride", "weights_stride", "variance_stride"])
def finalise(
    sizes,
    chunked,
    difference_sums,
    target_sums,
    weights,
    variance,
    shares,
    coefficients,
    value,
    layers,
    target_stride,
    weights_stride,
    variance_stride,
    bandwidth: tl.float64,
    l1_weight: tl.float64,
    KIND: tl.constexpr,
    CHUNKED: tl.constexpr,
    GRADIENT: tl.constexpr,
    WEIGHTS: tl.constexpr,
    VARIANCE: tl.constexpr,
    VALUE: tl.constexpr,
    LAYER_BLOCK: tl.constexpr,
):
    """Program r: value[r] of type VALUE and, if GRADIENT, coefficients[r, l] where chunked[l] != 0.

    The coefficients are float64, 5 columns. Without CHUNKED there are none, and shares [R, L] hold all.
    """
    r = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LAYER_BLOCK)
    target_row = target_sums + r * target_stride
    total = tl.zeros([LAYER_BLOCK], tl.float64)
    # 1
    whole = tl.zeros([], tl.float64)
    if CHUNKED:
        whole = whole_target(target_row, layers, LAYER_BLOCK)
    # 2
    first = 0
    while first < layers:
        layer = first + lane
        here = layer < layers
        if CHUNKED:
            mine = here & (tl.load(chunked + layer, mask=here, other=0) != 0)
            size = tl.load(sizes + layer, mask=mine, other=0).to(tl.float64)
            sums = difference_sums + (r * layers + layer) * 6
            square = tl.load(sums + 1, mask=mine, other=0.0)
            cross = tl.load(sums + 2, mask=mine, other=0.0)
            dummy_square = tl.load(sums + 3, mask=mine, other=0.0)
            inner = tl.load(sums + 4, mask=mine, other=0.0)
            absolute = tl.load(sums + 5, mask=mine, other=0.0)
            target_square = tl.load(target_row + layer * 3 + 1, mask=mine, other=0.0)
            deviation = tl.load(target_row + layer * 3 + 2, mask=mine, other=0.0)
            if VARIANCE:
                deviation = size * tl.load(variance + r * variance_stride + layer, mask=mine, other=0.0)
            weight = size * 0.0 + 1.0
            if WEIGHTS:
                weight = tl.load(weights + r * weights_stride + layer, mask=mine, other=0.0)
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
            known = tl.load(shares + r * layers + layer, mask=here & (mine == 0), other=0.0)
            total += tl.where(mine, share, known)
            if GRADIENT:
                out = coefficients + (r * layers + layer) * 5
                tl.store(out, alpha, mask=mine)
                tl.store(out + 1, beta, mask=mine)
                tl.store(out + 2, epsilon, mask=mine)
                tl.store(out + 3, delta * 0.0, mask=mine)
                tl.store(out + 4, delta, mask=mine)
        else:
            total += tl.load(shares + r * layers + layer, mask=here, other=0.0)
        first += LAYER_BLOCK
    # 3
    tl.store(value + r, tl.sum(total, axis=0).to(VALUE))
