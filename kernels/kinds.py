"""The distances on sums: value and coefficients of segments, elementwise on float64 scalars or vectors.

The same mathematics as csrc/kinds.h and `sapag_fast.distances.formulas`, which explains each formula. KIND
are the numbers of `sapag_fast.distances.kind`. Nothing here branches on data: a segment that carries no
weight is computed like the others and replaced afterwards.
"""
# Triton's language is no Python to a type checker.
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

SAPAG: tl.constexpr = tl.constexpr(0)
SAPAG_MEAN: tl.constexpr = tl.constexpr(1)
SAPAG_SUM: tl.constexpr = tl.constexpr(2)
SAPAG_GLOBAL: tl.constexpr = tl.constexpr(3)
L2: tl.constexpr = tl.constexpr(4)
L2_NORMALIZED: tl.constexpr = tl.constexpr(5)
COSINE: tl.constexpr = tl.constexpr(6)
L1: tl.constexpr = tl.constexpr(7)
TAG: tl.constexpr = tl.constexpr(8)
KINDS = 9

RELATIVE_NORM_FLOOR2: tl.constexpr = tl.constexpr(1e-12)
RELATIVE_VARIANCE_FLOOR: tl.constexpr = tl.constexpr(1e-12)
NEAR: tl.constexpr = tl.constexpr(0.25)


@triton.jit
def needs_variance(KIND: tl.constexpr):
    """Whether a layer without variance carries no weight."""
    return KIND <= SAPAG_SUM


@triton.jit
def needs_norm(KIND: tl.constexpr):
    """Whether a layer without a norm carries no weight."""
    return (KIND != L2) & (KIND != L1) & (KIND != TAG)


def needs_extra(kind: int) -> bool:
    """Whether a distance uses Σ|d| and sign(d)."""
    return kind in (L1.value, TAG.value)


@triton.jit
def decay(z):
    """exp(-z) and 1 - exp(-z), the latter without cancellation.

    Triton has no expm1: its series z - z²/2! + z³/3! - … where z is small (the first term left out is below
    1e-16 of the sum).
    """
    power = tl.exp(-z)
    series = 1.0 - z * (1 / 13)
    for i in tl.static_range(11):
        series = 1.0 - z * (1 / (12 - i)) * series
    return power, tl.where(z < 0.25, z * series, 1.0 - power)


@triton.jit
def unit_difference(square, cross, dummy_square, inner, target_square):
    """P = ‖u' - u‖² and the coefficients α, β, ε of its gradient with respect to g'."""
    b = tl.sqrt(target_square)
    near = square < NEAR * target_square
    zero = (dummy_square <= 0) & (near == 0)
    a = tl.sqrt(tl.where(near, target_square + 2.0 * cross + square, dummy_square))
    gap = (square + 2.0 * cross) / (a + b)
    ab = a * b
    far = tl.where(zero, 1.0, 2.0 - 2.0 * inner / ab)
    value = tl.where(near, (square - gap * gap) / ab, far)
    alpha = tl.where(near, 2.0 / ab * ((target_square + cross) / (a * a)), 0.0)
    beta = tl.where(zero, 0.0, -2.0 / ab * tl.where(near, (cross + square) / (a * a), 1.0))
    epsilon = tl.where(near | zero, 0.0, 2.0 * inner / (a * a * ab))
    return value, alpha, beta, epsilon


@triton.jit
def segment_value(
    square,
    cross,
    dummy_square,
    inner,
    absolute,
    target_square,
    deviation,
    size,
    weight,
    whole_square,
    bandwidth,
    l1_weight,
    KIND: tl.constexpr,
):
    """A segment's share of D and the coefficients α, β, ε, δ of its gradient (γ is 0 in every kind).

    All float64: the segment's sums, its target's, its number of elements and weight, Σ g² of the whole
    target; bandwidth and l1_weight are those of the distance.
    """
    nothing = square * 0.0
    alpha, beta, epsilon, delta = nothing, nothing, nothing, nothing
    spread = nothing + 2.0 * bandwidth  # a vector of float64 in the interpreter too
    if KIND == SAPAG:
        factor = target_square / (spread * deviation)
        p, alpha, beta, epsilon = unit_difference(square, cross, dummy_square, inner, target_square)
        power, value = decay(p * factor)
        slope = power * factor * weight
        alpha, beta, epsilon = alpha * slope, beta * slope, epsilon * slope
    elif KIND == SAPAG_MEAN:
        power, value = decay(square / (spread * deviation))
        alpha = 2.0 / (spread * deviation) * power * weight
    elif KIND == SAPAG_SUM:
        power, value = decay(size * square / (spread * deviation))
        alpha = 2.0 * size / (spread * deviation) * power * weight
    elif KIND == SAPAG_GLOBAL:
        p, alpha, beta, epsilon = unit_difference(square, cross, dummy_square, inner, target_square)
        power, value = decay(p / spread)
        slope = power / spread * weight
        alpha, beta, epsilon = alpha * slope, beta * slope, epsilon * slope
    elif KIND == L2:
        value = square
        alpha = 2.0 * weight
    elif KIND == L2_NORMALIZED:
        value = square / target_square
        alpha = 2.0 / target_square * weight
    elif KIND == COSINE:
        p, alpha, beta, epsilon = unit_difference(square, cross, dummy_square, inner, target_square)
        value = 0.5 * p
        slope = 0.5 * weight
        alpha, beta, epsilon = alpha * slope, beta * slope, epsilon * slope
    elif KIND == L1:
        value = absolute
        delta = weight
    else:  # TAG: the layer weight belongs to the absolute term alone
        delta = l1_weight * weight
        value = square + delta * absolute
        alpha = nothing + 2.0
    if KIND != TAG:
        value = value * weight
    if needs_norm(KIND):
        # Written so that a NaN is not degenerate: it has to reach the result.
        dead = (size < 1.0) | (target_square <= 0) | (target_square <= RELATIVE_NORM_FLOOR2 * whole_square)
        if needs_variance(KIND):
            dead = dead | (size <= 1.0) | (deviation <= RELATIVE_VARIANCE_FLOOR * target_square)
        # A non-finite gradient has to show, also where its layer carries no weight or a kernel maps it to 1.
        broken = (tl.abs(square + target_square) < float("inf")) == 0
        value = tl.where(broken, float("nan"), tl.where(dead, 0.0, value))
        dead = dead | broken
        alpha = tl.where(dead, 0.0, alpha)
        beta = tl.where(dead, 0.0, beta)
        epsilon = tl.where(dead, 0.0, epsilon)
    return value, alpha, beta, epsilon, delta
