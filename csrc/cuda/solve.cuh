// The mathematics of a segment: its sums to the share of D and the coefficients of V.
#pragma once

#include "unit_sums.cuh"
// After primitives.cuh.
#include "../kinds.h"

namespace sapag::gpu {

// Σ g² over all layers, in every lane of a warp: what a layer's share is measured against.
__device__ __forceinline__ double whole_square(const Problem& problem, int64_t recovery) {
  double sum = 0;
  if (needs_norm(problem.options.kind)) {
    const TargetSums* row = problem.target + recovery * problem.target_stride;
    for (int64_t layer = lane(); layer < problem.layers; layer += kWarpSize) sum += row[layer].square;
    sum = butterfly(sum);
  }
  return sum;
}

// One thread: D's share, and the coefficients of V in *slope. A call, so that the sweeps around it need not
// keep registers for exponentials and divisions in float64.
__device__ __noinline__ inline double solve(const Problem& problem, int64_t recovery, int layer, double size,
                                            double whole, const double* totals, Coefficients* slope) {
  const DistanceOptions& options = problem.options;
  DifferenceSums sums;
  sums.square = totals[kSquare];
  sums.cross = totals[kCross];
  sums.dummy_square = totals[kDummySquare];
  sums.inner = totals[kInner];
  sums.sum = totals[kSum];
  sums.absolute = totals[kAbsolute];
  TargetSums target = problem.target[recovery * problem.target_stride + layer];
  if (options.variance) {
    target.deviation = size * options.variance[recovery * options.variance_stride + layer];
  }
  const double weight = options.weights ? options.weights[recovery * options.weights_stride + layer] : 1;
  const bool degenerate = is_degenerate(options.kind, target, size, whole);
  return segment_value(options, sums, target, size, weight, degenerate, slope);
}

}  // namespace sapag::gpu
