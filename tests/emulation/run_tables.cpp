// The CUDA kernels, their planner and their driver on random tables of gradients, under random schedules:
//
//   run_tables FIRST_SEED SEEDS [small] [verbose]
//
//  1. A seed gives a table (tables.h), a device with its limits, so that every tier is met at small sizes,
//  and a
//     schedule.
//  2. target_sums, then distance, value alone or with V; difference_sums and apply in every third table.
//  3. All results against float64 definitions; memory around them untouched; launches on the stream that was
//  given.
//  4. Another device and another schedule give the same bits, a launch that fails gives its error.
//
// `small` is for ThreadSanitizer. Prints what was run, tier by tier; the first wrong result ends the run.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/driver.h"
#include "tables.h"

using namespace sapag;
using namespace sapag::emulation;
using sapag::gpu::Plan;
using sapag::gpu::PlannerLimits;
using sapag::gpu::Purpose;
using sapag::gpu::Tier;

namespace {

// Exactly so many rows, none of them written yet.
template <class T>
class Rows {
 public:
  explicit Rows(int64_t count)
      : count_(static_cast<std::size_t>(count)), memory_(std::malloc(count_ * sizeof(T))) {
    std::memset(memory_, 0xff, count_ * sizeof(T));
  }
  ~Rows() { std::free(memory_); }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;
  T* data() const { return static_cast<T*>(memory_); }
  const T& operator[](int64_t i) const { return data()[i]; }
  std::vector<unsigned char> bytes() const {
    const auto* first = static_cast<const unsigned char*>(memory_);
    return {first, first + count_ * sizeof(T)};
  }

 private:
  std::size_t count_;
  void* memory_;
};

template <class T, std::size_t kCount>
T one_of(Random* random, const T (&values)[kCount]) {
  return values[random->below(kCount)];
}

PlannerLimits draw_limits(Random* random, bool small) {
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

Options draw_options(Random* random, const PlannerLimits& limits) {
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
std::vector<int64_t> boundaries(const PlannerLimits& limits, Scalar scalar) {
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

void* const kStream = reinterpret_cast<void*>(0x5a9a6);

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

std::string check_streams() {
  for (const LaunchRecord& record : launch_log()) {
    if (record.stream != kStream) return "a launch on another stream";
    if (record.error) return "launch error " + std::to_string(record.error);
  }
  return {};
}

std::string check_target_sums(Case* c, const PlannerLimits& limits, const Rows<TargetSums>& sums) {
  const Table& table = c->table;
  const Plan plan = gpu::plan_for(table, Purpose::sums, table.target_recoveries, limits);
  Rows<char> workspace(plan.workspace_bytes);
  if (const int error = gpu::target_sums(table, plan, sums.data(), workspace.data(), kStream)) {
    return "target_sums: error " + std::to_string(error);
  }
  for (int64_t recovery = 0; recovery < table.target_recoveries; ++recovery) {
    for (int64_t layer = 0; layer < table.layers; ++layer) {
      const SegmentData& data = c->segment(recovery, layer);
      const TargetSums& got = sums[recovery * table.layers + layer];
      const Moments wanted = moments_of(data.target);
      SegmentData target_alone;
      target_alone.target = data.target;
      if (!finite(target_alone)) {
        if (std::isfinite(got.square) || std::isfinite(got.deviation)) {
          return wrong("finite target sums", recovery, layer, -1, got.square, NAN, 0);
        }
        continue;
      }
      Real absolute = 0;
      for (const Real g : data.target) absolute += std::fabs(g);
      const Real errors[] = {
          1e-14L * absolute, 1e-13L * wanted.square,
          wanted.deviation * (1e-13L + 1e-14L * wanted.deviation_error) + 1e-28L * wanted.square};
      if (!close(got.sum, wanted.sum, errors[0])) {
        return wrong("target sum", recovery, layer, -1, got.sum, wanted.sum, errors[0]);
      }
      if (!close(got.square, wanted.square, errors[1])) {
        return wrong("target square", recovery, layer, -1, got.square, wanted.square, errors[1]);
      }
      if (!close(got.deviation, wanted.deviation, errors[2])) {
        return wrong("target deviation", recovery, layer, -1, got.deviation, wanted.deviation, errors[2]);
      }
    }
  }
  return {};
}

std::string check_difference_sums(Case* c, const PlannerLimits& limits) {
  const Table& table = c->table;
  const Plan plan = gpu::plan_for(table, Purpose::sums, table.recoveries, limits);
  Rows<char> workspace(plan.workspace_bytes);
  Rows<DifferenceSums> sums(table.recoveries * table.layers);
  if (const int error = gpu::difference_sums(table, plan, sums.data(), workspace.data(), kStream)) {
    return "difference_sums: error " + std::to_string(error);
  }
  for (int64_t recovery = 0; recovery < table.recoveries; ++recovery) {
    for (int64_t layer = 0; layer < table.layers; ++layer) {
      const SegmentData& data = c->segment(recovery, layer);
      const DifferenceSums& row = sums[recovery * table.layers + layer];
      if (!finite(data)) {
        if (std::isfinite(row.square)) return wrong("finite sums", recovery, layer, -1, row.square, NAN, 0);
        continue;
      }
      const double got[] = {row.sum, row.square, row.cross, row.dummy_square, row.inner, row.absolute};
      Real wanted[6] = {}, absolute[6] = {};
      for (std::size_t i = 0; i < data.dummy.size(); ++i) {
        const Real a = data.dummy[i], g = data.target[i], d = a - g;
        const Real terms[] = {d, d * d, d * g, a * a, a * g, std::fabs(d)};
        for (int k = 0; k < 6; ++k) {
          wanted[k] += terms[k];
          absolute[k] += std::fabs(terms[k]);
        }
      }
      for (int k = 0; k < 6; ++k) {
        if (!close(got[k], wanted[k], 1e-13L * absolute[k])) {
          return wrong("difference sum", recovery, layer, k, got[k], wanted[k], 1e-13L * absolute[k]);
        }
      }
    }
  }
  return {};
}

std::string check_gaps(const Case& c) {
  for (std::size_t e = 0; e < c.out.size(); ++e) {
    if (!c.out[e].gaps_untouched()) return "memory around V of tensor " + std::to_string(e) + " was written";
  }
  return {};
}

void clear(Case* c) {
  for (Tensor& tensor : c->out) {
    if (tensor.bytes) std::memset(tensor.memory.get(), 0xff, tensor.bytes);
  }
}

std::string check_apply(Case* c, const PlannerLimits& limits, Random* random) {
  const Table& table = c->table;
  const Precision precision = precision_of(table.scalar);
  const Plan plan = gpu::plan_for(table, Purpose::apply, table.recoveries, limits);
  Rows<Coefficients> rows(table.recoveries * table.layers);
  for (int64_t i = 0; i < table.recoveries * table.layers; ++i) {
    const auto draw = [&] { return random->one_in(3) ? 0 : random->normal(); };
    rows.data()[i] = {draw(), draw(), draw(), draw(), draw()};
  }
  clear(c);
  if (const int error = gpu::apply(table, plan, rows.data(), kStream))
    return "apply: error " + std::to_string(error);
  for (std::size_t e = 0; e < table.entries.size(); ++e) {
    const Entry& entry = table.entries[e];
    for (int64_t recovery = 0; recovery < table.recoveries; ++recovery) {
      const Coefficients& k = rows[recovery * table.layers + entry.layer];
      for (int64_t i = 0; i < entry.size; ++i) {
        const Real a = c->dummy[e].get(recovery, i);
        const Real g = c->target[e].get(table.target_recoveries == 1 ? 0 : recovery, i), d = a - g;
        if (!std::isfinite(static_cast<double>(d))) continue;
        const Real sign = static_cast<Real>((d > 0) - (d < 0));
        const Real wanted = k.alpha * d + k.beta * g + k.epsilon * a + k.gamma + k.delta * sign;
        const Real terms = std::fabs(k.alpha * d) + std::fabs(k.beta * g) + std::fabs(k.epsilon * a) +
                           std::fabs(k.gamma) + std::fabs(k.delta);
        const Real allowed = 8 * precision.arithmetic * terms + 2 * precision.stored * std::fabs(wanted) +
                             precision.stored_least;
        const Real got = c->out[e].get(recovery, i);
        if (!close(got, wanted, allowed))
          return wrong("applied", recovery, entry.layer, i, got, wanted, allowed);
      }
    }
  }
  return check_gaps(*c);
}

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
                 Values* values, int64_t keep = 4) {
  const Table& table = c->table;
  Plan plan = gpu::plan_for(table, purpose, table.recoveries, limits);
  // What a CTA keeps is the planner's choice, and the kernels have to be right with any.
  for (gpu::PlannedLaunch& launch : plan.launches) {
    const auto fewer = static_cast<int>(launch.held * keep / 4);
    launch.shape.shared_bytes -= static_cast<int>(gpu::held_bytes(launch.held - fewer));
    launch.held = fewer;
  }
  count_launches(plan);
  Rows<char> workspace(plan.workspace_bytes);
  return gpu::distance(table, plan, c->options, values->data(), values->wide, target.data(), workspace.data(),
                       kStream);
}

std::vector<unsigned char> bytes_of_gradient(const Case& c) {
  std::vector<unsigned char> all;
  for (const Tensor& tensor : c.out)
    all.insert(all.end(), tensor.memory.get(), tensor.memory.get() + tensor.bytes);
  return all;
}

// A layer whose tensors go to several launches is summed in another order.
bool cut(const Case& c, const PlannerLimits& limits) {
  const bool large = limits.parameter_bytes >= 32764;
  const int rows = large ? gpu::kLargeTable : gpu::kSmallTable;
  return static_cast<int>(c.table.entries.size()) > (limits.table_pieces < rows ? limits.table_pieces : rows);
}

std::string check_failures(Case* c, const Run& run, Purpose purpose, const Rows<TargetSums>& target,
                           Random* random) {
  configure(run.options);
  Values values(c->table.recoveries, false);
  run_distance(c, run.limits, purpose, target, &values);
  const auto launches = static_cast<int64_t>(launch_log().size());
  Options failing = run.options;
  failing.fail_launch = static_cast<int>(random->below(launches));
  configure(failing);
  const int error = run_distance(c, run.limits, purpose, target, &values);
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
      // One NaN is as good as another.
      for (int64_t r = 0; r < table.recoveries; ++r) {
        const double first = values[r], second = again[r];
        if (std::memcmp(&first, &second, sizeof first) != 0 && !(std::isnan(first) && std::isnan(second))) {
          return wrong("value on another device", r, -1, -1, second, first, 0);
        }
      }
      if (both && bytes_of_gradient(c) != gradient) return "V has other bits on another device";
    }
  }
  configure(run.options);
  if (random.one_in(3)) problem = check_difference_sums(&c, run.limits);
  if (problem.empty() && c.with_gradient && random.one_in(3)) problem = check_apply(&c, run.limits, &random);
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
