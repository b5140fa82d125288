// Which kernels a table of gradients is sent to: plain numbers in, plain numbers out, no CUDA.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace sapag::gpu {

// The device, and where one tier ends and the next begins. The defaults are an H100's.
struct PlannerLimits {
  int sms = 132;
  int64_t shared_bytes = 232448;  // of one CTA; an SM has 1 KB more, and each CTA costs it 1 KB
  int64_t l2_bytes = 50 << 20;
  int max_cluster = 8;
  int arch = 90;  // 10 times the compute capability
  int64_t parameter_bytes = 32764;
  int table_pieces = kLargeTable;            // fewer than the kernels are compiled for: for tests
  int64_t packed_units = 2;                  // a warp takes a segment of so many units at any time
  int64_t packed_units_many = kPackedUnits;  // and of so many where they would fill the device
  int64_t block_units = 24;
  double cluster_overflow = 1.5;  // a cluster takes this much more than it keeps, the rest again from L2
  bool grid_tier = true;
  int64_t grid_supers = kGridSupers;
  int block_threads = kBlockThreads;
  int cluster_threads = kClusterThreads;
  int grid_threads = kGridThreads;
  int pass_threads = kPassThreads;
  int pass_ctas = 8;  // an SM
};

enum class Purpose { sums, apply, value, gradient };
enum class Tier { block, cluster, grid, pass };

struct PlannedPiece {
  int entry;
  int first_unit;
};
// As table.h's Segment; first_piece counts the plan's pieces.
struct PlannedSegment {
  double size;
  double part_size;  // elements of this launch's part
  int layer;
  int first_piece;
  int pieces;
  int first_unit;
  int units;
  int first_chunk;
  int launch_chunk;
  int shift_entry;
};
struct PlannedLaunch {
  Tier tier;
  int first_segment;
  int segments;
  int packed;
  int held;
  int chunks;
  int groups;
  int64_t launch_chunks;
  bool large;  // the table's size
  Shape shape;
  Shape sweep;  // of the launch that takes V of negligible layers back
};

struct Plan {
  Purpose purpose;
  bool sum_target;  // value and gradient: the sweeps sum the target, too
  int64_t recoveries;
  int64_t layers;
  int64_t element_bytes;
  std::vector<PlannedPiece> pieces;
  std::vector<PlannedSegment> segments;
  std::vector<PlannedLaunch> launches;  // of Tier::pass: once for the sums and once, in reverse, for V
  std::vector<Merge> merges;
  int64_t chunks = 0;       // of one recovery in the partial sums of passes
  int64_t grid_chunks = 0;  // of all waves in flight of the grid tier
  // Workspace, in bytes from its beginning.
  int64_t shares_at = 0, slopes_at = 0, partial_at = 0, target_partial_at = 0, grid_at = 0, barriers_at = 0;
  int64_t marks_at = 0, workspace_bytes = 0;
};

// sizes: elements of one recovery in each tensor. Throws std::length_error where a launch would be too large.
Plan make_plan(const std::vector<int64_t>& sizes, const std::vector<int64_t>& layer_of, int64_t layers,
               int64_t recoveries, int64_t element_bytes, Purpose purpose, const PlannerLimits& limits,
               bool sum_target = false);

// A line for each launch, and one for each segment in it.
std::string describe(const Plan& plan);

}  // namespace sapag::gpu
