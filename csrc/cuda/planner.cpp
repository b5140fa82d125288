// Segments to tiers, tiers to launches.
//
//  1. Each layer's tensors become units (table.h), and its number of units decides its tier:
//       packed   a warp, several to a CTA        block    a CTA that keeps all of it
//       cluster  CTAs that keep all or most      grid     kept by the whole grid, at most two waves at a time
//       pass     sums and V in two sweeps; also whatever asks for sums or V alone
//  2. A tier's segments are cut into launches whose tables fit their parameters. A layer of more tensors than
//     a table holds is a pass's, in several launches.
//  3. The order of summation does not depend on any of this (but for a layer of so many tensors that it is
//     cut, whose later tables begin at a new chunk): tiers are free to depend on the number of recoveries.

#include "planner.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <stdexcept>

namespace sapag::gpu {
namespace {

// Shared memory that each CTA costs an SM besides its own.
constexpr int64_t kReservedBytes = 1024;
constexpr int64_t kSmallBlockUnits = 8;

int64_t ceil_divide(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
int64_t chunks_of(int64_t units) {
  return ceil_divide(units, kChunkUnits);
}

struct Layer {
  int64_t size = 0;
  int64_t units = 0;
  std::vector<int> entries;  // those with elements
};

class Planner {
 public:
  Planner(const std::vector<int64_t>& sizes, const std::vector<int64_t>& layer_of, int64_t layers,
          int64_t recoveries, int64_t element_bytes, Purpose purpose, const PlannerLimits& limits,
          bool sum_target)
      : sizes_(sizes), limits_(limits), layers_(layers), unit_(kUnitBytes / element_bytes) {
    plan_.purpose = purpose;
    plan_.sum_target = sum_target;
    plan_.recoveries = recoveries;
    plan_.layers = layers;
    plan_.element_bytes = element_bytes;
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] == 0) continue;
      Layer& layer = layers_[layer_of[i]];
      layer.size += sizes[i];
      layer.units += units_of(i);
      layer.entries.push_back(static_cast<int>(i));
    }
    const bool large = limits.parameter_bytes >= static_cast<int64_t>(sizeof(TierParameters<kLargeTable>));
    capacity_ = std::min(limits.table_pieces, large ? kLargeTable : kSmallTable);
    // Two CTAs an SM: one waits while the other streams.
    const int64_t half = (limits.shared_bytes + kReservedBytes) / 2 - kReservedBytes;
    cluster_shared_ = std::max<int64_t>(0, half - kClusterStaticBytes);
    grid_shared_ = std::max<int64_t>(0, half - kGridStaticBytes);
  }

  Plan make() {
    if (plan_.recoveries == 0) {
      lay_out();
      return std::move(plan_);
    }
    assign();
    if (tiers_) {
      block_launches();
      cluster_launches();
      grid_launches();
    }
    pass_launches();
    lay_out();
    return std::move(plan_);
  }

 private:
  int64_t units_of(int entry) const { return ceil_divide(sizes_[entry], unit_); }
  bool gradient() const { return plan_.purpose == Purpose::gradient; }

  // 1.
  void assign() {
    tiers_ = plan_.purpose == Purpose::value || gradient();
    const int64_t R = plan_.recoveries;
    const int count = static_cast<int>(layers_.size());
    if (!tiers_) {
      for (int layer = 0; layer < count; ++layer) pass_.push_back(layer);
      return;
    }
    const int64_t many_warps = int64_t{8} * 4 * limits_.sms;
    int64_t small = 0;
    for (const Layer& layer : layers_) small += layer.units <= limits_.packed_units_many;
    const bool many = R * small >= many_warps;
    const int64_t most_packed = std::min<int64_t>(
        many ? std::max(limits_.packed_units, limits_.packed_units_many) : limits_.packed_units,
        kPackedUnits);
    const int64_t most_block =
        std::min(limits_.block_units, most_held(limits_.shared_bytes - kBlockStaticBytes));
    for (int layer = 0; layer < count; ++layer) {
      const int64_t units = layers_[layer].units;
      const bool fits = static_cast<int64_t>(layers_[layer].entries.size()) <= capacity_;
      if (fits && units <= most_packed) {
        packed_.push_back(layer);
      } else if (fits && units <= most_block) {
        block_.push_back(layer);
      } else if (fits && gradient() && units <= most_cluster()) {
        cluster_.push_back(layer);
      } else if (fits && gradient() && limits_.grid_tier && chunks_of(units) <= wave_chunks(1)) {
        grid_.push_back(layer);
      } else {
        pass_.push_back(layer);
      }
    }
  }

  // Units that a CTA keeps and has sums of.
  static int64_t most_held(int64_t shared) {
    return std::max<int64_t>(0, shared) / (held_bytes(1) + unit_sum_bytes(1) + chunk_sum_bytes(1));
  }

  bool clusters() const { return limits_.arch >= 90 && limits_.max_cluster >= 2; }
  // Units of one CTA of a cluster, kept or not.
  int64_t cluster_share() const {
    const auto share =
        static_cast<int64_t>(static_cast<double>(most_held(cluster_shared_)) * limits_.cluster_overflow);
    return share / kChunkUnits * kChunkUnits;
  }
  int64_t most_cluster() const { return clusters() ? cluster_share() * limits_.max_cluster : 0; }

  // Chunks that a wave of the grid tier takes: what the CTAs of a group keep, and a part of L2.
  int64_t wave_chunks(int groups) const {
    const int64_t members = grid_ctas() / groups;
    const int64_t kept = members * most_held(grid_shared_) / kChunkUnits;
    const int64_t cached = limits_.l2_bytes / 2 / groups / held_bytes(kChunkUnits);
    // A CTA has sums of all its units, kept or not.
    const int64_t summed = members * (grid_shared_ / unit_sum_bytes(kChunkUnits));
    return std::min(
        {kept + cached, summed, std::min<int64_t>(limits_.grid_supers, kGridSupers) * kSuperChunks});
  }
  int64_t grid_ctas() const { return int64_t{2} * limits_.sms; }

  // 2. Tables: a segment's pieces side by side, a launch's segments side by side.
  void add_segment(int layer) {
    const Layer& from = layers_[layer];
    PlannedSegment segment{};
    segment.size = segment.part_size = static_cast<double>(from.size);
    segment.layer = layer;
    segment.first_piece = static_cast<int>(plan_.pieces.size());
    segment.pieces = static_cast<int>(from.entries.size());
    segment.units = narrow(from.units);
    segment.shift_entry = from.entries.empty() ? -1 : from.entries.front();
    int64_t unit = 0;
    for (const int entry : from.entries) {
      plan_.pieces.push_back({entry, narrow(unit)});
      unit += units_of(entry);
    }
    plan_.segments.push_back(segment);
  }

  static int narrow(int64_t value) {
    if (value > std::numeric_limits<int32_t>::max()) {
      throw std::length_error("more units, chunks or CTAs than a launch can count: " + std::to_string(value));
    }
    return static_cast<int>(value);
  }

  // make(first, last) for runs of layers that fit a table.
  template <class Make>
  void for_tables(const std::vector<int>& list, Make&& make) {
    size_t first = 0;
    while (first < list.size()) {
      size_t last = first, pieces = 0;
      while (last < list.size() && last - first < static_cast<size_t>(capacity_) &&
             pieces + layers_[list[last]].entries.size() <= static_cast<size_t>(capacity_)) {
        pieces += layers_[list[last]].entries.size();
        ++last;
      }
      PlannedLaunch& launch = begin_launch(std::max(pieces, last - first));
      for (size_t i = first; i < last; ++i) {
        add_segment(list[i]);
        plan_.segments.back().launch_chunk = narrow(launch.launch_chunks);
        launch.launch_chunks += chunks_of(plan_.segments.back().units);
      }
      launch.segments = static_cast<int>(last - first);
      make(launch);
      launch.sweep = sweep_of(launch);
      first = last;
    }
  }

  PlannedLaunch& begin_launch(size_t rows) {
    PlannedLaunch launch{};
    launch.first_segment = static_cast<int>(plan_.segments.size());
    launch.large = rows > static_cast<size_t>(kSmallTable);
    launch.groups = 1;
    plan_.launches.push_back(launch);
    return plan_.launches.back();
  }

  // A warp a chunk, or several where there are many.
  Shape sweep_of(const PlannedLaunch& launch) const {
    const int64_t warps = limits_.pass_threads / 32;
    Shape shape;
    shape.threads = limits_.pass_threads;
    shape.grid = narrow(std::min(ceil_divide(plan_.recoveries * launch.launch_chunks, warps),
                                 int64_t{limits_.pass_ctas} * limits_.sms));
    return shape;
  }

  int64_t most_units(const PlannedLaunch& launch) const {
    int64_t most = 0;
    for (int i = 0; i < launch.segments; ++i)
      most = std::max<int64_t>(most, plan_.segments[launch.first_segment + i].units);
    return most;
  }

  void block_launches() {
    // Where CTAs are many, small segments do not share a launch with large ones, whose shared memory would
    // keep others off the SM.
    std::vector<int> first, last;
    const bool split = plan_.recoveries * static_cast<int64_t>(block_.size()) > int64_t{2} * limits_.sms;
    for (const int layer : block_)
      (split && layers_[layer].units > kSmallBlockUnits ? first : last).push_back(layer);
    block_launch(first, {});
    block_launch(last, packed_);
  }

  void block_launch(const std::vector<int>& alone, const std::vector<int>& packed) {
    std::vector<int> all = alone;
    all.insert(all.end(), packed.begin(), packed.end());
    size_t done = 0;
    for_tables(all, [&](PlannedLaunch& launch) {
      const size_t owned = std::min(done + launch.segments, alone.size()) - std::min(done, alone.size());
      done += launch.segments;
      launch.tier = Tier::block;
      launch.packed = launch.segments - static_cast<int>(owned);
      int64_t most = 0;
      for (size_t i = 0; i < owned; ++i)
        most = std::max<int64_t>(most, plan_.segments[launch.first_segment + i].units);
      launch.held = gradient() ? narrow(most) : 0;
      const int wanted = most > kSmallBlockUnits ? 256 : 128;
      launch.shape.threads = std::min(wanted, limits_.block_threads);
      const int64_t warps = launch.shape.threads / 32;
      launch.shape.grid = narrow(plan_.recoveries * static_cast<int64_t>(owned) +
                                 ceil_divide(plan_.recoveries * launch.packed, warps));
      launch.shape.shared_bytes = narrow(held_bytes(launch.held) + unit_sum_bytes(most));
    });
  }

  void cluster_launches() {
    // As few CTAs as keep a segment where there are segments enough to fill the device, else as many as there
    // may be.
    const int64_t R = plan_.recoveries, most = limits_.max_cluster;
    const bool few = R * static_cast<int64_t>(cluster_.size()) * most <= int64_t{2} * limits_.sms;
    for (int64_t size = 2; size <= most; size *= 2) {
      std::vector<int> list;
      for (const int layer : cluster_) {
        const int64_t chunks = chunks_of(layers_[layer].units);
        int64_t wanted = 2;
        while (wanted * 2 <= most &&
               (few || ceil_divide(chunks, wanted) * kChunkUnits > most_held(cluster_shared_))) {
          wanted *= 2;
        }
        if (wanted == size) list.push_back(layer);
      }
      for_tables(list, [&](PlannedLaunch& launch) {
        launch.tier = Tier::cluster;
        launch.shape.cluster = static_cast<int>(size);
        launch.chunks = narrow(ceil_divide(chunks_of(most_units(launch)), size));
        const int64_t units = int64_t{launch.chunks} * kChunkUnits;
        const int64_t sums = unit_sum_bytes(units) + chunk_sum_bytes(launch.chunks);
        launch.held = narrow(std::min(units, std::max<int64_t>(0, cluster_shared_ - sums) / held_bytes(1)));
        launch.shape.threads = limits_.cluster_threads;
        launch.shape.grid = narrow(R * launch.segments * size);
        launch.shape.shared_bytes = narrow(held_bytes(launch.held) + sums);
      });
    }
  }

  void grid_launches() {
    int64_t all = 0;
    for (const int layer : grid_) all += chunks_of(layers_[layer].units) * plan_.recoveries;
    const bool one_wave = all <= wave_chunks(1);
    std::vector<int> halves, whole;
    for (const int layer : grid_) {
      const bool fits = chunks_of(layers_[layer].units) <= wave_chunks(2);
      (!one_wave && fits ? halves : whole).push_back(layer);
    }
    grid_launch(halves, 2);
    grid_launch(whole, 1);
  }

  void grid_launch(const std::vector<int>& list, int groups) {
    for_tables(list, [&](PlannedLaunch& launch) {
      int64_t chunks = 0;
      for (int i = 0; i < launch.segments; ++i)
        chunks += chunks_of(plan_.segments[launch.first_segment + i].units);
      narrow(plan_.recoveries * launch.segments);
      const int64_t members = grid_ctas() / groups;
      launch.tier = Tier::grid;
      launch.groups = groups;
      launch.chunks = narrow(std::min(chunks * plan_.recoveries, wave_chunks(groups)));
      const int64_t units = ceil_divide(launch.chunks, members) * kChunkUnits;
      launch.held =
          narrow(std::min(units, std::max<int64_t>(0, grid_shared_ - unit_sum_bytes(units)) / held_bytes(1)));
      launch.shape.threads = limits_.grid_threads;
      launch.shape.grid = narrow(members * groups);
      launch.shape.shared_bytes = narrow(held_bytes(launch.held) + unit_sum_bytes(units));
      plan_.grid_chunks = std::max<int64_t>(plan_.grid_chunks, int64_t{2} * groups * launch.chunks);
    });
  }

  // A layer of more tensors than a table holds goes on in the next launch: there it begins at a new chunk.
  // Each such layer begins a launch, so that where it is cut depends on itself alone.
  void pass_launches() {
    PlannedLaunch launch{};
    int rows = 0;
    const auto end_launch = [&] {
      if (rows == 0) return;
      launch.tier = Tier::pass;
      launch.groups = 1;
      launch.segments = static_cast<int>(plan_.segments.size()) - launch.first_segment;
      launch.large = rows > kSmallTable;
      launch.shape = sweep_of(launch);
      plan_.launches.push_back(launch);
      rows = 0;
    };
    for (const int number : pass_) {
      const Layer& layer = layers_[number];
      Merge merge{};
      merge.size = static_cast<double>(layer.size);
      merge.layer = number;
      merge.first_chunk = narrow(plan_.chunks);
      int64_t unit = 0;  // in the layer
      if (rows + static_cast<int64_t>(layer.entries.size()) > capacity_) end_launch();
      for (size_t i = 0; i < layer.entries.size();) {
        if (rows == 0) {
          launch = PlannedLaunch{};
          launch.first_segment = static_cast<int>(plan_.segments.size());
        }
        unit = chunks_of(unit) * kChunkUnits;
        PlannedSegment segment{};
        segment.size = static_cast<double>(layer.size);
        segment.layer = number;
        segment.first_piece = static_cast<int>(plan_.pieces.size());
        segment.first_unit = narrow(unit);
        segment.first_chunk = narrow(plan_.chunks);
        segment.launch_chunk = narrow(launch.launch_chunks);
        segment.shift_entry = layer.entries.front();
        for (; i < layer.entries.size() && rows < capacity_; ++i, ++rows, ++segment.pieces) {
          plan_.pieces.push_back({layer.entries[i], narrow(unit)});
          unit += units_of(layer.entries[i]);
          segment.part_size += static_cast<double>(sizes_[layer.entries[i]]);
        }
        segment.units = narrow(unit - segment.first_unit);
        launch.launch_chunks += chunks_of(segment.units);
        plan_.chunks += chunks_of(segment.units);
        plan_.segments.push_back(segment);
        if (rows == capacity_) end_launch();
      }
      merge.chunks = narrow(plan_.chunks - merge.first_chunk);
      plan_.merges.push_back(merge);
    }
    end_launch();
  }

  void lay_out() {
    const int64_t R = plan_.recoveries, rows = R * plan_.layers;
    int64_t at = 0;
    const auto take = [&](int64_t bytes) {
      const int64_t here = at;
      at += ceil_divide(bytes, 16) * 16;
      return here;
    };
    const bool value = plan_.purpose == Purpose::value || gradient();
    const bool sums = plan_.purpose != Purpose::apply;
    plan_.barriers_at = take(plan_.grid_chunks ? 2 * kGridBarrierBytes : 0);
    plan_.shares_at = take(value ? rows * static_cast<int64_t>(sizeof(double)) : 0);
    plan_.slopes_at =
        take(gradient() && plan_.chunks ? rows * static_cast<int64_t>(sizeof(Coefficients)) : 0);
    const int64_t column = R * plan_.chunks * static_cast<int64_t>(sizeof(double));
    const bool target = plan_.sum_target || plan_.purpose == Purpose::sums;
    plan_.partial_at = take(sums ? kColumns * column : 0);
    plan_.target_partial_at = take(target ? kTargetColumns * column : 0);
    plan_.marks_at = take(plan_.sum_target ? rows * static_cast<int64_t>(sizeof(int32_t)) : 0);
    plan_.grid_at = take(chunk_sum_bytes(plan_.grid_chunks));
    plan_.workspace_bytes = at;
  }

  const std::vector<int64_t>& sizes_;
  const PlannerLimits& limits_;
  std::vector<Layer> layers_;
  int64_t unit_;
  int capacity_ = 0;
  int64_t cluster_shared_ = 0, grid_shared_ = 0;
  bool tiers_ = false;
  std::vector<int> packed_, block_, cluster_, grid_, pass_;
  Plan plan_{};
};

}  // namespace

Plan make_plan(const std::vector<int64_t>& sizes, const std::vector<int64_t>& layer_of, int64_t layers,
               int64_t recoveries, int64_t element_bytes, Purpose purpose, const PlannerLimits& limits,
               bool sum_target) {
  return Planner(sizes, layer_of, layers, recoveries, element_bytes, purpose, limits, sum_target).make();
}

}  // namespace sapag::gpu
