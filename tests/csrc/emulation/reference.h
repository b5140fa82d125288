// Distances by their definitions, in long double: what the kernels' results are measured against. Nothing
// here is shared with the kernels. Each value and each element of V comes with the error that the formulas on
// sums, in the precision of the kernels, are allowed.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "sapag.h"

namespace sapag::emulation {

using Real = long double;

struct SegmentData {
  std::vector<Real> dummy, target;  // as stored: already rounded to the tensors' type
};

struct Measured {
  Real value = 0, value_error = 0;
  std::vector<Real> gradient, gradient_error;
};

struct Moments {
  Real sum = 0, square = 0, deviation = 0;
  Real deviation_error = 0;  // relative, of sums about the first element
};

// What one rounding in the kernels may cost, relative: of their sums, of V's arithmetic, of V as stored.
struct Precision {
  Real sums = 1e-13L, arithmetic = 0, stored = 0, stored_least = 0;
};

inline Precision precision_of(Scalar scalar) {
  Precision p;
  switch (scalar) {
    case Scalar::f64:
      p.arithmetic = p.stored = 0x1p-53L;
      p.stored_least = 0x1p-1022L;
      break;
    case Scalar::f32:
      p.arithmetic = p.stored = 0x1p-24L;
      p.stored_least = 0x1p-126L;
      break;
    case Scalar::bf16:
      p.arithmetic = 0x1p-24L;
      p.stored = 0x1p-9L;
      p.stored_least = 0x1p-126L;
      break;
    case Scalar::f16:
      p.arithmetic = 0x1p-24L;
      p.stored = 0x1p-12L;
      p.stored_least = 0x1p-24L;
      break;
  }
  return p;
}

inline Moments moments_of(const std::vector<Real>& x) {
  Moments m;
  const auto n = static_cast<Real>(x.size());
  if (x.empty()) return m;
  for (const Real value : x) {
    m.sum += value;
    m.square += value * value;
  }
  const Real mean = m.sum / n;
  for (const Real value : x) m.deviation += (value - mean) * (value - mean);
  const Real off = x.front() - mean;
  m.deviation_error = m.deviation > 0 ? n * off * off / m.deviation : 0;
  return m;
}

inline bool finite(const SegmentData& data) {
  Real sum = 0;
  for (const Real x : data.dummy) sum += x - x;
  for (const Real x : data.target) sum += x - x;
  return sum == 0;
}

// One layer of one recovery. whole: the sum of g^2 over all layers of the recovery. variance: as given, or
// negative.
inline Measured measure(Kind kind, const SegmentData& data, Real whole, Real bandwidth, Real l1_weight,
                        Real weight, Real variance, const Precision& precision) {
  const std::size_t n = data.dummy.size();
  const auto size = static_cast<Real>(n);
  Measured result;
  result.gradient.assign(n, 0);
  result.gradient_error.assign(n, 0);
  Moments target = moments_of(data.target);
  Real square = 0, absolute = 0, dummy_square = 0, inner = 0, cross = 0, crossing = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const Real a = data.dummy[i], g = data.target[i], d = a - g;
    square += d * d;
    absolute += std::fabs(d);
    dummy_square += a * a;
    inner += a * g;
    cross += d * g;
    crossing += std::fabs(d * g);
  }
  if (!finite(data)) {
    result.value = std::numeric_limits<Real>::quiet_NaN();
    return result;
  }
  if (variance >= 0) {
    target.deviation = size * variance;
    target.deviation_error = 0;
  }

  const bool plain = kind == Kind::l2 || kind == Kind::l1 || kind == Kind::tag;
  const bool spread = kind == Kind::sapag || kind == Kind::sapag_mean || kind == Kind::sapag_sum;
  if (!plain && (n == 0 || target.square <= 1e-12L * whole)) return result;
  if (spread && (n <= 1 || target.deviation <= 1e-12L * target.square)) return result;

  // z, of which the share of D is weight * z or weight * (1 - exp(-z)); dz/dg' = slope * direction.
  std::vector<Real> direction(n), magnitude(n);  // magnitude: of the terms that the kernels add up
  Real slope = 1, z = 0, z_error = 0;            // z_error: absolute
  const bool unit = kind == Kind::sapag || kind == Kind::sapag_global || kind == Kind::cosine;
  if (unit) {
    const Real a = std::sqrt(dummy_square), b = std::sqrt(target.square);
    if (dummy_square <= 0) {  // no direction to compare with
      z = 1;
    } else {
      // |g'| - |g|, and u' - u from differences: else long double does not reach beyond the kernels' double.
      const Real longer = (square + 2 * cross) / (a + b);
      Real along = 0;
      std::vector<Real> e(n);
      for (std::size_t i = 0; i < n; ++i) {
        e[i] = (data.dummy[i] - data.target[i]) / a - data.target[i] * longer / (a * b);  // u' - u
        z += e[i] * e[i];
        along += e[i] * (data.dummy[i] / a);
      }
      const bool near = square < 0.26L * target.square, far = square > 0.24L * target.square;
      for (std::size_t i = 0; i < n; ++i) {
        const Real x = data.dummy[i], g = data.target[i];
        direction[i] = 2 / a * (e[i] - along * (x / a));
        const Real kappa = (target.square + cross) / dummy_square;
        if (near) {
          magnitude[i] +=
              2 / (a * b) * (std::fabs(kappa * (x - g)) + std::fabs((crossing + square) / dummy_square * g));
        }
        if (far) magnitude[i] += 2 / (a * b) * (std::fabs(g) + std::fabs(inner / dummy_square * x));
      }
      z_error = precision.sums * (far ? 4 : square / (a * b));
    }
    slope = kind == Kind::sapag          ? target.square / (2 * bandwidth * target.deviation)
            : kind == Kind::sapag_global ? 1 / (2 * bandwidth)
                                         : 0.5L;
  } else if (kind == Kind::l1) {
    z = absolute;
    for (std::size_t i = 0; i < n; ++i) {
      const Real d = data.dummy[i] - data.target[i];
      direction[i] = static_cast<Real>((d > 0) - (d < 0));
      magnitude[i] = std::fabs(direction[i]);
    }
  } else {
    z = square;
    for (std::size_t i = 0; i < n; ++i) {
      direction[i] = 2 * (data.dummy[i] - data.target[i]);
      magnitude[i] = std::fabs(direction[i]);
    }
    if (kind == Kind::sapag_mean) slope = 1 / (2 * bandwidth * target.deviation);
    if (kind == Kind::sapag_sum) slope = size / (2 * bandwidth * target.deviation);
    if (kind == Kind::l2_normalized) slope = 1 / target.square;
  }
  z *= slope;
  z_error = z_error * slope + z * (precision.sums + (spread ? 1e-14L * target.deviation_error : 0));
  const bool saturating = spread || kind == Kind::sapag_global;
  const Real factor = saturating ? std::exp(-z) : 1;
  const Real factor_error = precision.sums + (saturating ? z_error : 0) + (z > 0 ? z_error / z : 0);
  const Real outer = kind == Kind::tag ? 1 : weight;
  result.value = outer * (saturating ? -std::expm1(-z) : z);
  result.value_error = outer * z_error * factor + 1e-15L * std::fabs(result.value);
  const Real scaled = outer * slope * factor;
  for (std::size_t i = 0; i < n; ++i) {
    result.gradient[i] = scaled * direction[i];
    Real size_of_terms = std::fabs(scaled) * magnitude[i];
    if (kind == Kind::tag) {
      const Real d = data.dummy[i] - data.target[i], extra = l1_weight * weight;
      result.gradient[i] += extra * static_cast<Real>((d > 0) - (d < 0));
      size_of_terms += std::fabs(extra);
    }
    // Factors that double precision does not hold are zero, whatever they are multiplied by.
    const Real lost = (saturating ? std::fabs(outer * slope * direction[i]) + std::fabs(data.dummy[i]) +
                                        std::fabs(data.target[i])
                                  : 0) *
                      0x1p-1022L;
    result.gradient_error[i] = size_of_terms * (8 * precision.arithmetic + factor_error) +
                               2 * precision.stored * std::fabs(result.gradient[i]) + precision.stored_least +
                               lost;
  }
  if (kind == Kind::tag) {
    result.value += l1_weight * weight * absolute;
    result.value_error += precision.sums * result.value;
  }
  return result;
}

}  // namespace sapag::emulation
