// The CUDA kernels, their planner and their driver on random tables of gradients, under random schedules:
//
//   run_tables FIRST_SEED SEEDS [small] [verbose]
//
//  1. A seed gives a table (tables.h), a device with its limits, so that every tier is met at small sizes,
//  and a
//     schedule.
//  2. target_sums, then distance, value alone or with V; difference_sums, apply and scale in every third
//  table.
//     Where each recovery has its own target, distance again, summing the target itself: the same bits.
//  3. All results against float64 definitions; memory around them untouched; launches on the stream that was
//  given.
//  4. Another device and another schedule give the same bits, a launch that fails gives its error.
//
// `small` is for ThreadSanitizer. Prints what was run, tier by tier; the first wrong result ends the run.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "check_scale.h"
#include "check_sums.h"
#include "kinds.h"

using namespace sapag;
using namespace sapag::emulation;
using sapag::gpu::Tier;

namespace {

std::map<std::string, int> counts;

void count_launches(const Plan& plan) {
  for (const gpu::PlannedLaunch& launch : plan.launches) {
    const char* names[] = {"block", "cluster", "grid", "pass"};
    ++counts[names[static_cast<int>(launch.tier)]];
    if (launch.packed) ++counts["packed"];
    if (launch.large) ++counts["large table"];
    if (launch.tier == Tier::grid && launch.groups == 2) ++counts["grid in halves"];
  }
}

struct Run {
  Case* c;
  PlannerLimits limits;
  Options options;
};

// D as stored.
struct Values {
  explicit Values(int64_t count, bool is_wide)
      : wide(is_wide), singles(wide ? 0 : count), doubles(wide ? count : 0) {}
  bool wide;
  Rows<float> singles;
  Rows<double> doubles;
  void* data() { return wide ? static_cast<void*>(doubles.data()) : singles.data(); }
  double operator[](int64_t i) const { return wide ? doubles[i] : static_cast<double>(singles[i]); }
  std::vector<unsigned char> bytes() const { return wide ? doubles.bytes() : singles.bytes(); }
};

int run_distance(Case* c, const PlannerLimits& limits, Purpose purpose, const Rows<TargetSums>& target,
                 Values* values, int64_t keep = 4, bool sum_target = false) {
  const Table& table = c->table;
  Plan plan = gpu::plan_for(table, purpose, table.recoveries, limits, sum_target);
  // What a CTA keeps is the planner's choice, and the kernels have to be right with any.
  for (gpu::PlannedLaunch& launch : plan.launches) {
    if (launch.tier == Tier::block) continue;  // these keep all
    const auto fewer = static_cast<int>(launch.held * keep / 4);
    launch.shape.shared_bytes -= static_cast<int>(gpu::held_bytes(launch.held - fewer));
    launch.held = fewer;
  }
  count_launches(plan);
  Rows<char> workspace(plan.workspace_bytes);
  return gpu::distance(table, plan, c->options, values->data(), values->wide, target.data(), workspace.data(),
                       kStream);
}

// A layer of more tensors than a launch takes is summed in an order that depends on how many that is.
bool cut(const Case& c, const PlannerLimits& limits) {
  const int rows = limits.parameter_bytes >= 32764 ? gpu::kLargeTable : gpu::kSmallTable;
  std::vector<int> tensors(static_cast<std::size_t>(c.table.layers), 0);
  int most = 0;
  for (const Entry& entry : c.table.entries) {
    if (entry.size > 0) most = std::max(most, ++tensors[static_cast<std::size_t>(entry.layer)]);
  }
  return most > std::min(limits.table_pieces, rows);
}

bool same(double a, double b) {
  return std::memcmp(&a, &b, sizeof a) == 0 ||
         (std::isnan(a) && std::isnan(b));  // one NaN is as good as another
}

// Layers with a direction of their own that are left out for what the others are.
bool any_taken_back(const Case& c, const Rows<TargetSums>& target) {
  const Table& table = c.table;
  for (int64_t recovery = 0; needs_norm(c.options.kind) && recovery < table.recoveries; ++recovery) {
    const TargetSums* const row = target.data() + recovery * table.layers;
    double whole = 0;
    for (int64_t layer = 0; layer < table.layers; ++layer) whole += row[layer].square;
    for (int64_t layer = 0; layer < table.layers; ++layer) {
      if (row[layer].square > 0 && is_negligible(row[layer], whole)) return true;
    }
  }
  return false;
}

// distance that sums the target itself: target's, D's and V's bits are those of the calls that give it.
std::string check_uncached(Case* c, const PlannerLimits& limits, Purpose purpose,
                           const Rows<TargetSums>& target, const Values& values, int64_t keep) {
  const Table& table = c->table;
  const std::vector<unsigned char> gradient = bytes_of_gradient(*c);
  clear(c);
  const Rows<TargetSums> sums(table.recoveries * table.layers);
  Values again(table.recoveries, values.wide);
  if (const int error = run_distance(c, limits, purpose, sums, &again, keep, true)) {
    return "distance of an unknown target: error " + std::to_string(error);
  }
  ++counts["uncached"];
  counts["taken back"] += any_taken_back(*c, target);
  for (int64_t recovery = 0; recovery < table.recoveries; ++recovery) {
    for (int64_t layer = 0; layer < table.layers; ++layer) {
      const TargetSums &got = sums[recovery * table.layers + layer],
                       &wanted = target[recovery * table.layers + layer];
      if (!same(got.sum, wanted.sum))
        return wrong("uncached sum", recovery, layer, -1, got.sum, wanted.sum, 0);
      if (!same(got.square, wanted.square)) {
        return wrong("uncached square", recovery, layer, -1, got.square, wanted.square, 0);
      }
      if (!same(got.deviation, wanted.deviation)) {
        return wrong("uncached deviation", recovery, layer, -1, got.deviation, wanted.deviation, 0);
      }
    }
    if (!same(again[recovery], values[recovery])) {
      return wrong("uncached value", recovery, -1, -1, again[recovery], values[recovery], 0);
    }
  }
  if (purpose == Purpose::gradient && bytes_of_gradient(*c) != gradient) return "V has other bits uncached";
  return check_gaps(*c);
}

std::string check_failures(Case* c, const Run& run, Purpose purpose, const Rows<TargetSums>& target,
                           Random* random) {
  configure(run.options);
  Values values(c->table.recoveries, false);
  const bool own = c->table.target_recoveries == c->table.recoveries;
  run_distance(c, run.limits, purpose, target, &values, 4, own);
  const auto launches = static_cast<int64_t>(launch_log().size());
  Options failing = run.options;
  failing.fail_launch = static_cast<int>(random->below(launches));
  configure(failing);
  const int error = run_distance(c, run.limits, purpose, target, &values, 4, own);
  if (error != kLaunchFailure) return "a failed launch gave " + std::to_string(error);
  if (static_cast<int>(launch_log().size()) != failing.fail_launch + 1)
    return "launches went on after one failed";
  return {};
}

std::string check(uint64_t seed, bool small, bool verbose) {
  Random random(seed);
  const Scalar scalar = one_of(&random, {Scalar::f32, Scalar::f32, Scalar::bf16, Scalar::f16, Scalar::f64});
  Run run{nullptr, draw_limits(&random, small), {}};
  run.options = draw_options(&random, run.limits);
  Limits table_limits;
  table_limits.most_elements = 1 << 15;
  if (small) table_limits = {2, 16000 / bytes_of(scalar) * (random.one_in(4) ? 3 : 1), 2};
  Case c;
  make_table(&random, table_limits, scalar, boundaries(run.limits, scalar), &c);
  run.c = &c;
  const Purpose purpose = c.with_gradient ? Purpose::gradient : Purpose::value;
  const Table& table = c.table;
  if (verbose) {
    std::printf("seed %llu: scalar %d, kind %d, %lld targets\n%s", static_cast<unsigned long long>(seed),
                static_cast<int>(scalar), static_cast<int>(c.options.kind),
                static_cast<long long>(table.target_recoveries),
                gpu::describe(gpu::plan_for(table, purpose, table.recoveries, run.limits)).c_str());
    std::fflush(stdout);
  }
  ++counts["tables"];

  configure(run.options);
  Rows<TargetSums> target(table.target_recoveries * table.layers);
  std::string problem = check_target_sums(&c, run.limits, target);
  if (!problem.empty()) return problem;

  Values values(table.recoveries, random.one_in(2));
  if (const int error =
          run_distance(&c, run.limits, purpose, target, &values, random.one_in(3) ? random.below(4) : 4)) {
    return "distance: error " + std::to_string(error);
  }
  for (int64_t recovery = 0; recovery < table.recoveries; ++recovery) {
    const Expected expected = expect(&c, recovery);
    const bool broken = c.broken[static_cast<std::size_t>(recovery)];
    problem = check_value(expected, broken, recovery, values[recovery], values.wide);
    if (problem.empty() && c.with_gradient && !broken) problem = check_gradient(&c, expected, recovery);
    if (!problem.empty()) return problem;
  }
  problem = check_gaps(c);
  if (problem.empty()) problem = check_streams();
  if (!problem.empty()) return problem;

  if (table.target_recoveries == table.recoveries && random.one_in(2)) {
    problem = check_uncached(&c, run.limits, purpose, target, values, random.one_in(3) ? random.below(4) : 4);
    if (!problem.empty()) return problem;
  }
  if (random.one_in(small ? 6 : 3)) {
    const std::vector<unsigned char> gradient = bytes_of_gradient(c);
    const PlannerLimits other = draw_limits(&random, small);
    configure(draw_options(&random, other));
    clear(&c);
    const bool both = c.with_gradient && random.one_in(2);
    Values again(table.recoveries, values.wide);
    if (const int error =
            run_distance(&c, other, both ? Purpose::gradient : Purpose::value, target, &again)) {
      return "distance on another device: error " + std::to_string(error);
    }
    if (!cut(c, run.limits) && !cut(c, other)) {
      ++counts["repeated"];
      for (int64_t r = 0; r < table.recoveries; ++r) {
        if (!same(values[r], again[r])) {
          return wrong("value on another device", r, -1, -1, again[r], values[r], 0);
        }
      }
      if (both && bytes_of_gradient(c) != gradient) return "V has other bits on another device";
    }
  }
  configure(run.options);
  if (random.one_in(3)) problem = check_difference_sums(&c, run.limits);
  if (problem.empty() && c.with_gradient && random.one_in(3)) problem = check_apply(&c, run.limits, &random);
  if (problem.empty() && c.with_gradient && random.one_in(3)) problem = check_scale(&c, run.limits, &random);
  if (problem.empty() && !small && random.one_in(10))
    problem = check_failures(&c, run, purpose, target, &random);
  return problem;
}

// What no table gives: a number type that there is none of, and no recovery at all.
std::string check_edges() {
  configure({});
  Table table;
  float number = 1;
  table.layers = 1;
  table.entries.push_back({&number, &number, nullptr, 1, 1, 1, 1, 0});
  table.scalar = static_cast<Scalar>(9);
  const Plan plan = gpu::plan_for(table, Purpose::sums, 1, {});
  Rows<char> workspace(plan.workspace_bytes);
  Rows<TargetSums> target(1);
  if (gpu::target_sums(table, plan, target.data(), workspace.data(), kStream) == 0)
    return "an unknown number type ran";
  table.scalar = Scalar::f32;
  const Plan nothing = gpu::plan_for(table, Purpose::gradient, 0, {});
  if (gpu::distance(table, nothing, {}, nullptr, false, target.data(), workspace.data(), kStream)) {
    return "no recoveries gave an error";
  }
  if (gpu::target_sums(table, gpu::plan_for(table, Purpose::sums, 0, {}), target.data(), workspace.data(),
                       kStream)) {
    return "sums of no recoveries gave an error";
  }
  SlopeTable slopes;
  slopes.recoveries = 0;
  slopes.slopes.push_back({nullptr, 0, 0});
  if (gpu::scale(slopes, {}, kStream)) return "nothing to scale gave an error";
  try {
    gpu::make_plan({int64_t{1} << 50}, {0}, 1, 1, 4, Purpose::gradient, {});
    return "a plan for more units than can be counted";
  } catch (const std::length_error&) {
  }
  return launch_log().empty() ? std::string() : "something ran for no recoveries";
}

}  // namespace

int main(int arguments, char** words) {
  if (arguments < 3) return 2;
  const uint64_t first = std::strtoull(words[1], nullptr, 10), seeds = std::strtoull(words[2], nullptr, 10);
  bool small = false, verbose = false;
  for (int i = 3; i < arguments; ++i) {
    small |= std::strcmp(words[i], "small") == 0;
    verbose |= std::strcmp(words[i], "verbose") == 0;
  }
  const std::string edges = check_edges();
  if (!edges.empty()) {
    std::printf("%s\n", edges.c_str());
    return 1;
  }
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    const std::string problem = check(seed, small, verbose);
    if (!problem.empty()) {
      std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed), problem.c_str());
      return 1;
    }
  }
  std::printf("ok");
  for (const auto& [name, number] : counts) std::printf(", %s %d", name.c_str(), number);
  std::printf("\n");
  return 0;
}
