// Random devices for the emulated kernels: limits, so that every tier is met at small sizes, and schedules.
#pragma once

#include <string>
#include <vector>

#include "cuda/planner.h"
#include "tables.h"

namespace sapag::emulation {

using gpu::Plan;
using gpu::PlannerLimits;
using gpu::Purpose;

template <class T, std::size_t kCount>
T one_of(Random* random, const T (&values)[kCount]) {
  return values[random->below(kCount)];
}

inline PlannerLimits draw_limits(Random* random, bool small) {
  Random& r = *random;
  PlannerLimits limits;
  limits.sms = 1 + static_cast<int>(r.below(small ? 2 : 3));
  limits.shared_bytes = small ? 24 * 1024 : 1024 * (r.one_in(3) ? 6 + r.below(12) : 18 + r.below(50));
  limits.l2_bytes = one_of(random, {0, 64 << 10, 256 << 10});
  limits.max_cluster = small ? 2 << r.below(2) : r.one_in(8) ? 1 : 2 << r.below(3);
  limits.arch = r.one_in(8) ? 80 : 90;
  limits.parameter_bytes = r.one_in(3) ? 4096 : 32764;
  if (r.one_in(4)) limits.table_pieces = 1 + static_cast<int>(r.below(5));
  limits.packed_units = r.below(3);
  limits.packed_units_many = r.below(gpu::kPackedUnits + 1);
  limits.block_units = small ? 1 + r.below(3) : r.below(25);
  limits.cluster_overflow = one_of(random, {1.0, 1.5, 2.0});
  limits.grid_tier = !r.one_in(8);
  const auto threads = [&](int most) {
    const int drawn = 32 << r.below(small ? 2 : 4);
    return drawn < most ? drawn : most;
  };
  limits.block_threads = threads(gpu::kBlockThreads);
  limits.cluster_threads = threads(gpu::kClusterThreads);
  limits.grid_threads = threads(gpu::kGridThreads);
  limits.pass_threads = threads(gpu::kPassThreads);
  limits.pass_ctas = 1 + static_cast<int>(r.below(8));
  if (r.one_in(10)) {
    // All to the grid tier, and few of its chunks at a time: waves of several segments, more warps than a
    // chunk has units.
    limits.sms = 1;
    limits.arch = 80;
    limits.shared_bytes = 128 * 1024;
    limits.l2_bytes = 0;
    limits.packed_units = limits.packed_units_many = limits.block_units = 0;
    limits.grid_tier = true;
    limits.grid_threads = one_of(random, {256, gpu::kGridThreads});
  }
  return limits;
}

inline Options draw_options(Random* random, const PlannerLimits& limits) {
  Options options;
  options.seed = random->bits();
  options.resident_clusters = 1 + static_cast<int>(random->below(4));
  options.preemption = one_of(random, {0, 0, 8, 100});
  options.shared_bytes = static_cast<int>(limits.shared_bytes);
  options.cluster_limit = limits.arch >= 90 ? limits.max_cluster : 1;
  options.cooperative_limit = 2 * limits.sms;
  return options;
}

// One unit more goes elsewhere: elements of a layer on both sides of each such step.
inline std::vector<int64_t> boundaries(const PlannerLimits& limits, Scalar scalar) {
  const int64_t width = bytes_of(scalar), unit = gpu::kUnitBytes / width;
  std::vector<int64_t> sizes = {1, unit, gpu::kChunkUnits * unit, 5 * unit};
  std::string before;
  for (int64_t units = 1; units <= 130; ++units) {
    const Plan plan = gpu::make_plan({units * unit}, {0}, 1, 1, width, Purpose::gradient, limits);
    const gpu::PlannedLaunch& launch = plan.launches.front();
    const std::string tier = std::to_string(static_cast<int>(launch.tier)) + (launch.packed ? "p" : "") +
                             std::to_string(launch.shape.cluster) + (launch.held < units ? "o" : "");
    if (!before.empty() && tier != before) {
      for (const int64_t size : {(units - 1) * unit - 1, (units - 1) * unit, (units - 1) * unit + 1}) {
        sizes.push_back(size);
      }
    }
    before = tier;
  }
  return sizes;
}

}  // namespace sapag::emulation
