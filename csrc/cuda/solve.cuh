// The mathematics of a segment: its sums to the share of D and the coefficients of V.
#pragma once

#include "unit_sums.cuh"
// After primitives.cuh.
#include "../kinds.h"

namespace sapag::gpu {

// Σ g² over all layers, in every lane of a warp: what a layer's share is measured against. 0 where it is not
// yet known (or not asked for): then only a target of zeros is negligible.
__device__ __forceinline__ double whole_square(const Problem& problem, int64_t recovery) {
  double sum = 0;
  if (needs_norm(problem.options.kind) && !problem.sum_target) {
    const TargetSums* row = problem.target + recovery * problem.target_stride;
    for (int64_t layer = lane(); layer < problem.layers; layer += kWarpSize) sum += row[layer].square;
    sum = butterfly(sum);
  }
  return sum;
}

// Which columns a tier's sweep sums.
__device__ __forceinline__ int columns_of(const Problem& problem) {
  return problem.sum_target ? kAllColumns : needs_extra(problem.options.kind) ? kColumns : kSum;
}

// A target's sums from those about its shift.
__device__ __forceinline__ TargetSums unshifted(const double* totals, double size, double shift) {
  TargetSums sums;
  if (size < 1) return sums;
  const double shifted = totals[kShiftedSum];
  const double deviation = totals[kShiftedSquare] - shifted * (shifted / size);
  sums.sum = shifted + size * shift;
  sums.square = totals[kTargetSquare];
  sums.deviation = deviation < 0 ? 0 : deviation;  // a NaN stays
  return sums;
}

// One thread: the coefficients of V in *slope and, if it is the one that writes, D's share and what else the
// problem asks for of a layer. A call, so that the sweeps around it need not keep registers for exponentials
// and divisions in float64.
__device__ __noinline__ inline void solve(const Problem& problem, int64_t recovery, int layer, double size,
                                          double whole, const double* totals, double shift, bool writes,
                                          Coefficients* slope) {
  const DistanceOptions& options = problem.options;
  DifferenceSums sums;
  sums.square = totals[kSquare];
  sums.cross = totals[kCross];
  sums.dummy_square = totals[kDummySquare];
  sums.inner = totals[kInner];
  sums.sum = totals[kSum];
  sums.absolute = totals[kAbsolute];
  TargetSums* const row = problem.target + recovery * problem.target_stride + layer;
  TargetSums target;
  if (problem.sum_target) {
    target = unshifted(totals + kColumns, size, shift);
    if (writes) *row = target;
  } else {
    target = *row;
  }
  if (options.variance) {
    target.deviation = size * options.variance[recovery * options.variance_stride + layer];
  }
  const double weight = options.weights ? options.weights[recovery * options.weights_stride + layer] : 1;
  const bool degenerate = is_degenerate(options.kind, target, size, whole);
  const double share = segment_value(options, sums, target, size, weight, degenerate, slope);
  if (!writes) return;
  problem.shares[recovery * problem.layers + layer] = share;
  if (problem.marks)
    problem.marks[recovery * problem.layers + layer] = std::isfinite(sums.square + target.square);
}

}  // namespace sapag::gpu
