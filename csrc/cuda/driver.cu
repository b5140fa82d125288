// From a plan to launches: fills their parameters and queues them in order.
//
//   target_sums, difference_sums   pass over the elements, ordered merge
//   apply                          pass over the elements
//   scale                          a launch for each table of tensors
//   distance                       1. the launches of the block, cluster and grid tiers: D's shares and V
//                                  2. passes for the other segments: sums, merge (shares, coefficients), V
//                                  3. D, the shares' sum
//     of an unknown target         1. sums the target as well, in the same sweeps;
//                                  2. merges those sums first: then all layers' are known, and these shares
//                                     and V are final;
//                                  3. leaves out the shares of layers that turn out negligible;
//                                  4. V of these becomes zero: launches that find nothing to do, most often

#include <algorithm>
#include <type_traits>

#include "../kinds.h"
#include "driver.h"

namespace sapag::gpu {
namespace {

// Runs steps until one fails.
class Queue {
 public:
  template <class Step>
  void add(Step&& step) {
    if (error_ == 0) error_ = step();
  }
  int error() const { return error_; }

 private:
  int error_ = 0;
};

template <class T>
T* at(void* workspace, int64_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(workspace) + offset);
}

template <int kPieces>
void fill(const sapag::Table& table, const Plan& plan, const PlannedLaunch& launch,
          LaunchTable<kPieces>* out) {
  int row = 0;
  for (int i = 0; i < launch.segments; ++i) {
    const PlannedSegment& from = plan.segments[launch.first_segment + i];
    Segment& segment = out->segments[i];
    segment.size = from.size;
    segment.layer = from.layer;
    segment.first_piece = row;
    segment.pieces = from.pieces;
    segment.first_unit = from.first_unit;
    segment.units = from.units;
    segment.first_chunk = from.first_chunk;
    segment.launch_chunk = from.launch_chunk;
    if (from.shift_entry >= 0) {
      const Entry& first = table.entries[from.shift_entry];
      segment.shift = first.target;
      segment.shift_stride = first.target_stride;
    }
    for (int p = 0; p < from.pieces; ++p, ++row) {
      const PlannedPiece& planned = plan.pieces[from.first_piece + p];
      const Entry& entry = table.entries[planned.entry];
      Piece& piece = out->pieces[row];
      piece.dummy = entry.dummy;
      piece.target = entry.target;
      piece.out = entry.out;
      piece.dummy_stride = entry.dummy_stride;
      piece.target_stride = entry.target_stride;
      piece.out_stride = entry.out_stride;
      piece.size = entry.size;
      piece.first_unit = planned.first_unit;
    }
  }
}

// run(std::integral_constant) with the size of table that the launch needs.
template <class Run>
int with_table(const PlannedLaunch& launch, Run&& run) {
  if (launch.large) return run(std::integral_constant<int, kLargeTable>{});
  return run(std::integral_constant<int, kSmallTable>{});
}

int run_tier(const sapag::Table& table, const Plan& plan, const PlannedLaunch& launch, const Problem& problem,
             void* workspace, void* stream) {
  if (launch.shape.grid == 0) return 0;
  return with_table(launch, [&](auto pieces) {
    TierParameters<pieces> parameters{};
    parameters.problem = problem;
    parameters.recoveries = plan.recoveries;
    parameters.segments = launch.segments;
    parameters.packed = launch.packed;
    parameters.held = launch.held;
    parameters.chunks = launch.chunks;
    parameters.groups = launch.groups;
    parameters.with_gradient = plan.purpose == Purpose::gradient;
    parameters.partial = at<double>(workspace, plan.grid_at);
    parameters.barriers = at<void>(workspace, plan.barriers_at);
    fill(table, plan, launch, &parameters.table);
    switch (launch.tier) {
      case Tier::block:
        return launch_block_tier<pieces>(table.scalar, parameters, launch.shape, stream);
      case Tier::cluster:
        return launch_cluster_tier<pieces>(table.scalar, parameters, launch.shape, stream);
      case Tier::grid:
        return launch_grid_tier<pieces>(table.scalar, parameters, launch.shape, stream);
      case Tier::pass:
        break;
    }
    return 0;
  });
}

enum class Pass { difference, both, target, apply };

// What a pass reads and writes besides its table; as in PassParameters.
struct PassData {
  bool extra = false;
  double* partial = nullptr;
  double* target_partial = nullptr;
  const Coefficients* slopes = nullptr;
  const int32_t* marks = nullptr;
};

int run_pass(const sapag::Table& table, const Plan& plan, const PlannedLaunch& launch, const Shape& shape,
             Pass pass, const PassData& data, void* stream) {
  if (shape.grid == 0) return 0;
  return with_table(launch, [&](auto pieces) {
    PassParameters<pieces> parameters{};
    parameters.recoveries = plan.recoveries;
    parameters.segments = launch.segments;
    parameters.extra = data.extra;
    parameters.launch_chunks = launch.launch_chunks;
    parameters.chunks = plan.chunks;
    parameters.partial = data.partial;
    parameters.target_partial = data.target_partial;
    parameters.slopes = data.slopes;
    parameters.marks = data.marks;
    parameters.layers = plan.layers;
    fill(table, plan, launch, &parameters.table);
    switch (pass) {
      case Pass::difference:
        return launch_difference_pass<pieces>(table.scalar, parameters, shape, stream);
      case Pass::both:
        return launch_both_pass<pieces>(table.scalar, parameters, shape, stream);
      case Pass::target:
        return launch_target_pass<pieces>(table.scalar, parameters, shape, stream);
      case Pass::apply:
        return launch_apply_pass<pieces>(table.scalar, parameters, shape, stream);
    }
    return 0;
  });
}

void run_passes(const sapag::Table& table, const Plan& plan, Pass pass, const PassData& data, void* stream,
                Queue* queue) {
  for (const PlannedLaunch& launch : plan.launches) {
    if (launch.tier != Tier::pass) continue;
    queue->add([&] { return run_pass(table, plan, launch, launch.shape, pass, data, stream); });
  }
}

// The last launch first, as each walks its own table: backwards.
void run_apply(const sapag::Table& table, const Plan& plan, const Coefficients* slopes, void* stream,
               Queue* queue) {
  PassData data;
  data.slopes = slopes;
  for (auto launch = plan.launches.rbegin(); launch != plan.launches.rend(); ++launch) {
    if (launch->tier != Tier::pass) continue;
    queue->add([&] { return run_pass(table, plan, *launch, launch->shape, Pass::apply, data, stream); });
  }
}

// V = 0 in the marked layers of the other tiers.
void take_back(const sapag::Table& table, const Plan& plan, const int32_t* marks, void* stream,
               Queue* queue) {
  PassData data;
  data.marks = marks;
  for (const PlannedLaunch& launch : plan.launches) {
    if (launch.tier == Tier::pass) continue;
    queue->add([&] { return run_pass(table, plan, launch, launch.sweep, Pass::apply, data, stream); });
  }
}

void run_merges(const Plan& plan, const Problem& problem, MergeTo to, const double* partial, void* result,
                void* stream, Queue* queue) {
  if (plan.recoveries == 0) return;
  for (size_t first = 0; first < plan.merges.size(); first += kMerges) {
    MergeParameters parameters{};
    parameters.problem = problem;
    parameters.to = to;
    parameters.merges = static_cast<int32_t>(std::min<size_t>(kMerges, plan.merges.size() - first));
    parameters.recoveries = plan.recoveries;
    parameters.chunks = plan.chunks;
    parameters.partial = partial;
    parameters.result = result;
    std::copy_n(plan.merges.begin() + static_cast<std::ptrdiff_t>(first), parameters.merges,
                parameters.table);
    const Shape shape{static_cast<int>(plan.recoveries * parameters.merges), kMergeThreads};
    queue->add([&] { return launch_merge(parameters, shape, stream); });
  }
}

Problem rows_of(const Plan& plan) {
  Problem problem{};
  problem.layers = plan.layers;
  return problem;
}

}  // namespace

Plan plan_for(const sapag::Table& table, Purpose purpose, int64_t recoveries, const PlannerLimits& limits,
              bool sum_target) {
  std::vector<int64_t> sizes, layer_of;
  sizes.reserve(table.entries.size());
  layer_of.reserve(table.entries.size());
  for (const Entry& entry : table.entries) {
    sizes.push_back(entry.size);
    layer_of.push_back(entry.layer);
  }
  return make_plan(sizes, layer_of, table.layers, recoveries, bytes_of(table.scalar), purpose, limits,
                   sum_target);
}

int target_sums(const sapag::Table& table, const Plan& plan, TargetSums* target, void* workspace,
                void* stream) {
  Queue queue;
  PassData data;
  data.target_partial = at<double>(workspace, plan.target_partial_at);
  run_passes(table, plan, Pass::target, data, stream, &queue);
  run_merges(plan, rows_of(plan), MergeTo::target_sums, data.target_partial, target, stream, &queue);
  return queue.error();
}

int difference_sums(const sapag::Table& table, const Plan& plan, DifferenceSums* difference, void* workspace,
                    void* stream) {
  Queue queue;
  PassData data;
  data.extra = true;
  data.partial = at<double>(workspace, plan.partial_at);
  run_passes(table, plan, Pass::difference, data, stream, &queue);
  run_merges(plan, rows_of(plan), MergeTo::difference_sums, data.partial, difference, stream, &queue);
  return queue.error();
}

int apply(const sapag::Table& table, const Plan& plan, const Coefficients* coefficients, void* stream) {
  Queue queue;
  run_apply(table, plan, coefficients, stream, &queue);
  return queue.error();
}

int scale(const SlopeTable& table, const PlannerLimits& limits, void* stream) {
  constexpr int64_t kWarps = kScaleThreads / 32, kUnitsOfWarp = 4, kCtas = 8;  // CTAs an SM
  const int64_t R = table.recoveries, ctas = kCtas * limits.sms;
  const int64_t unit = kUnitBytes / bytes_of(table.scalar);
  Queue queue;
  ScaleParameters parameters{};
  parameters.recoveries = R;
  parameters.factor = table.factor;
  parameters.factor_stride = table.factor_stride;
  parameters.wide = table.wide;
  for (size_t first = 0; first < table.slopes.size(); first += kSlopes) {
    parameters.slopes = static_cast<int32_t>(std::min<size_t>(kSlopes, table.slopes.size() - first));
    int64_t units = 0;
    for (int i = 0; i < parameters.slopes; ++i) {
      parameters.table[i] = table.slopes[first + static_cast<size_t>(i)];
      units += (parameters.table[i].size + unit - 1) / unit;
    }
    if (R * units == 0) continue;
    // No more CTAs than the device takes at a time: where the factors are 1, all that is paid is the launch.
    const int64_t wanted = (units + kWarps * kUnitsOfWarp - 1) / (kWarps * kUnitsOfWarp);
    parameters.parts = static_cast<int32_t>(std::min(wanted, (ctas + R - 1) / R));
    const Shape shape{static_cast<int>(std::min(R * parameters.parts, ctas)), kScaleThreads};
    queue.add([&] { return launch_scale(table.scalar, parameters, shape, stream); });
  }
  return queue.error();
}

int distance(const sapag::Table& table, const Plan& plan, const DistanceOptions& options, void* value,
             bool wide, TargetSums* target, void* workspace, void* stream) {
  if (plan.recoveries == 0) return 0;
  Problem problem{};
  problem.options = options;
  problem.target = target;
  problem.target_stride = table.target_recoveries == 1 ? 0 : plan.layers;
  problem.layers = plan.layers;
  problem.shares = at<double>(workspace, plan.shares_at);
  const bool gradient = plan.purpose == Purpose::gradient;
  if (plan.sum_target && needs_norm(options.kind)) problem.marks = at<int32_t>(workspace, plan.marks_at);

  Queue queue;
  if (plan.grid_chunks > 0) {
    queue.add([&] { return launch_clear_barriers(at<void>(workspace, plan.barriers_at), 2, stream); });
  }
  problem.sum_target = plan.sum_target;
  for (const PlannedLaunch& launch : plan.launches)
    queue.add([&] { return run_tier(table, plan, launch, problem, workspace, stream); });

  PassData data;
  data.extra = needs_extra(options.kind);
  data.partial = at<double>(workspace, plan.partial_at);
  data.target_partial = at<double>(workspace, plan.target_partial_at);
  Coefficients* const slopes = gradient ? at<Coefficients>(workspace, plan.slopes_at) : nullptr;
  run_passes(table, plan, plan.sum_target ? Pass::both : Pass::difference, data, stream, &queue);
  if (plan.sum_target) {
    run_merges(plan, problem, MergeTo::target_sums, data.target_partial, target, stream, &queue);
  }
  problem.sum_target = 0;  // from here on they are known
  run_merges(plan, problem, MergeTo::coefficients, data.partial, slopes, stream, &queue);
  if (gradient) run_apply(table, plan, slopes, stream, &queue);
  queue.add([&] { return launch_finish(problem, plan.recoveries, value, wide, stream); });
  if (gradient && problem.marks) take_back(table, plan, problem.marks, stream, &queue);
  return queue.error();
}

}  // namespace sapag::gpu
