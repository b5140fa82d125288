// The distances on sums: value and coefficients of one segment. The same mathematics as distances.py, where
// each formula is explained; there the coefficients come from autograd, here they are written out. The CPU
// driver and the CUDA kernels both run this source.
#pragma once

#include <cmath>

#include "sapag.h"

namespace sapag {

constexpr double kRelativeNormFloor2 = 1e-12;
constexpr double kRelativeVarianceFloor = 1e-12;
constexpr double kNear = 0.25;

SAPAG_HD inline bool needs_variance(Kind kind) {
  return kind == Kind::sapag || kind == Kind::sapag_mean || kind == Kind::sapag_sum;
}
SAPAG_HD inline bool needs_norm(Kind kind) {
  return kind != Kind::l2 && kind != Kind::l1 && kind != Kind::tag;
}
SAPAG_HD inline bool needs_extra(Kind kind) {
  return kind == Kind::l1 || kind == Kind::tag;
}

// A target of zeros, or next to nothing beside the whole gradient: a criterion of is_degenerate. Zeros also
// where the whole is unknown or NaN.
SAPAG_HD inline bool is_negligible(const TargetSums& target, double whole_square) {
  return target.square <= 0 || target.square <= kRelativeNormFloor2 * whole_square;
}

// Layers on which a normalised distance is not defined carry no weight. Written so that a NaN is not
// degenerate: it has to reach the result.
SAPAG_HD inline bool is_degenerate(Kind kind, const TargetSums& target, double size, double whole_square) {
  if (!needs_norm(kind)) return false;
  if (size < 1 || is_negligible(target, whole_square)) return true;
  return needs_variance(kind) && (size <= 1 || target.deviation <= kRelativeVarianceFloor * target.square);
}

// P = |u' - u|^2 and the coefficients of its gradient with respect to g'.
SAPAG_HD inline double unit_difference(const DifferenceSums& s, double target_square, Coefficients* slope) {
  const double b = std::sqrt(target_square);
  if (s.square < kNear * target_square) {
    const double a = std::sqrt(target_square + 2 * s.cross + s.square);
    const double gap = (s.square + 2 * s.cross) / (a + b);
    slope->alpha = 2 / (a * b) * ((target_square + s.cross) / (a * a));
    slope->beta = -2 / (a * b) * ((s.cross + s.square) / (a * a));
    return (s.square - gap * gap) / (a * b);
  }
  if (s.dummy_square <= 0) return 1;
  const double a = std::sqrt(s.dummy_square);
  slope->beta = -2 / (a * b);
  slope->epsilon = 2 * s.inner / (a * a * a * b);
  return 2 - 2 * s.inner / (a * b);
}

// Whether float32 holds a coefficient with all its digits, or any float32 times it is zero there.
SAPAG_HD inline bool fits_single(double c) {
  const double size = std::fabs(c);
  return (size >= 0x1p-126 && size <= 0x1.fffffep127) || size < 0x1p-280;
}
SAPAG_HD inline bool fits_single(const Coefficients& c) {
  return fits_single(c.alpha) && fits_single(c.beta) && fits_single(c.epsilon) && fits_single(c.gamma) &&
         fits_single(c.delta);
}

SAPAG_HD inline void scale(Coefficients* c, double factor) {
  c->alpha *= factor;
  c->beta *= factor;
  c->epsilon *= factor;
  c->gamma *= factor;
  c->delta *= factor;
}

// The segment's share of D; *slope receives the coefficients of its gradient.
SAPAG_HD inline double segment_value(const DistanceOptions& options, const DifferenceSums& s,
                                     const TargetSums& target, double size, double weight, bool degenerate,
                                     Coefficients* slope) {
  *slope = Coefficients{};
  // A non-finite gradient has to show, also where its layer carries no weight or a kernel maps it to 1.
  if (needs_norm(options.kind) && !std::isfinite(s.square + target.square)) {
    return static_cast<double>(NAN);
  }
  if (degenerate) return 0;
  const double spread = 2 * options.bandwidth;
  double value = 0;
  switch (options.kind) {
    case Kind::sapag: {
      const double factor = target.square / (spread * target.deviation);
      const double z = unit_difference(s, target.square, slope) * factor;
      value = -std::expm1(-z);
      scale(slope, std::exp(-z) * factor);
      break;
    }
    case Kind::sapag_mean:
    case Kind::sapag_sum: {
      const double factor = (options.kind == Kind::sapag_sum ? size : 1) / (spread * target.deviation);
      const double z = s.square * factor;
      value = -std::expm1(-z);
      slope->alpha = 2 * factor * std::exp(-z);
      break;
    }
    case Kind::sapag_global: {
      const double z = unit_difference(s, target.square, slope) / spread;
      value = -std::expm1(-z);
      scale(slope, std::exp(-z) / spread);
      break;
    }
    case Kind::l2:
      value = s.square;
      slope->alpha = 2;
      break;
    case Kind::l2_normalized:
      value = s.square / target.square;
      slope->alpha = 2 / target.square;
      break;
    case Kind::cosine:
      value = 0.5 * unit_difference(s, target.square, slope);
      scale(slope, 0.5);
      break;
    case Kind::l1:
      value = s.absolute;
      slope->delta = 1;
      break;
    case Kind::tag:  // the layer weight belongs to the absolute term alone
      slope->alpha = 2;
      slope->delta = options.l1_weight * weight;
      return s.square + slope->delta * s.absolute;
    case Kind::count:
      break;
  }
  scale(slope, weight);
  return value * weight;
}

}  // namespace sapag
