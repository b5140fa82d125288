// What a launch is told: plain data in kernel parameters, so that a captured graph owns all it needs.
#pragma once

#include <cstdint>

#include "../sapag.h"

namespace sapag::gpu {

// The order of summation is fixed by these numbers and by a segment's elements alone, whatever the tier, the
// number of threads and the number of recoveries:
//   unit   what a warp reads at once: 32 lanes x 4 vectors of 16 bytes, of each operand
//   chunk  4 units, summed one after the other
//   group  32 chunks, summed by a butterfly over a warp's lanes
//   super  32 groups, summed likewise; supers are summed one after the other.
// Absent members count as zero, which changes no sum.
constexpr int kVectors = 4;
constexpr int kUnitBytes = 32 * kVectors * 16;
constexpr int kChunkUnits = 4;
constexpr int kGroupChunks = 32;
constexpr int kSuperChunks = 32 * kGroupChunks;

// Columns of sums; of a target: sum and square about its first element (the shift), then Σ g².
constexpr int kSquare = 0, kCross = 1, kDummySquare = 2, kInner = 3, kSum = 4, kAbsolute = 5, kColumns = 6;
constexpr int kShiftedSum = 0, kShiftedSquare = 1, kTargetSquare = 2, kShift = 3, kTargetColumns = 4;
// Of both, where one sweep sums both: a target's first three after a difference's.
constexpr int kAllColumns = kColumns + kShift;

// One gradient tensor of all recoveries; strides in elements between recoveries.
struct Piece {
  const void* dummy;
  const void* target;
  void* out;
  int64_t dummy_stride;
  int64_t target_stride;
  int64_t out_stride;
  int64_t size;        // elements of one recovery, at least one
  int32_t first_unit;  // in its segment
};

// One layer: neighbouring pieces of the launch's table.
struct Segment {
  double size;  // elements of one recovery, of all its pieces
  int32_t layer;
  int32_t first_piece;
  int32_t pieces;
  int32_t first_unit;    // where this launch's part of the layer begins, a multiple of kChunkUnits
  int32_t units;         // of this launch's part
  int32_t first_chunk;   // of this launch's part in the partial sums of one recovery
  int32_t launch_chunk;  // chunks of one recovery in the segments before it in this launch
  const void* shift;     // the layer's first target element, about which its variance is summed; or null
  int64_t shift_stride;
};

template <int kPieces>
struct LaunchTable {
  Segment segments[kPieces];
  Piece pieces[kPieces];
};

// The two sizes of table that kernels are compiled for: within 4 KB of parameters, which start fastest, and
// within the 32,764 bytes that CUDA 12.1 and later take. A segment without elements has no piece but takes a
// segment's place, hence as many of these as of those.
constexpr int kSmallTable = 32;
constexpr int kLargeTable = 270;

// What turns sums into D and V, on the device.
struct Problem {
  DistanceOptions options;
  TargetSums* target;
  int64_t target_stride;  // in layers between recoveries
  int64_t layers;
  double* shares;  // [R, L]: the layers' parts of D
  // The tiers sum the target in the sweep that sums the difference, and write it. What a layer is measured
  // against, Σ g² over all layers, is then not known before they end: they leave out none but zeros for it,
  // and `finish` takes back those that turn out negligible.
  int32_t sum_target;
  // [R, L], or null where no layer can be negligible: 1 from the tiers where a layer's sums are finite;
  // finish leaves it only where the layer is taken back.
  int32_t* marks;
};

template <int kPieces>
struct TierParameters {
  Problem problem;
  int64_t recoveries;
  int32_t segments;
  int32_t packed;  // block tier: how many of them, the last ones, take a warp each
  int32_t held;    // units that a CTA keeps in shared memory
  int32_t chunks;  // a cluster's CTA, a grid's wave: chunks it takes at most
  int32_t groups;  // grid tier: independent halves of the grid
  int32_t with_gradient;
  double* partial;  // grid tier: sums of the chunks of two waves in each group
  void* barriers;
  LaunchTable<kPieces> table;
};

template <int kPieces>
struct PassParameters {
  int64_t recoveries;
  int32_t segments;
  int32_t extra;
  int64_t launch_chunks;       // of one recovery in this launch
  int64_t chunks;              // of one recovery in partial
  double* partial;             // [R, kColumns, chunks]
  double* target_partial;      // [R, kTargetColumns, chunks]
  const Coefficients* slopes;  // [R, layers], for apply
  const int32_t* marks;        // [R, layers], for apply in place of slopes: V is 0 where set, else left alone
  int64_t layers;
  LaunchTable<kPieces> table;
};

// The ordered merge of partial sums: one segment's place in them.
struct Merge {
  double size;
  int32_t layer;
  int32_t first_chunk;
  int32_t chunks;
};
constexpr int kMerges = 160;

enum class MergeTo : int32_t { difference_sums, target_sums, coefficients };

struct MergeParameters {
  Problem problem;
  MergeTo to;
  int32_t merges;
  int64_t recoveries;
  int64_t chunks;
  const double* partial;
  void* result;  // DifferenceSums, TargetSums or Coefficients [R, L]
  Merge table[kMerges];
};

// V to be multiplied.
constexpr int kSlopes = 160;

struct ScaleParameters {
  int64_t recoveries;
  int64_t factor_stride;
  const void* factor;
  int32_t wide;
  int32_t slopes;
  int32_t parts;  // that a recovery is shared out in
  Slope table[kSlopes];
};

static_assert(sizeof(TierParameters<kSmallTable>) <= 4096 && sizeof(PassParameters<kSmallTable>) <= 4096);
static_assert(sizeof(TierParameters<kLargeTable>) <= 32764 && sizeof(PassParameters<kLargeTable>) <= 32764);
static_assert(sizeof(MergeParameters) <= 4096 && sizeof(ScaleParameters) <= 4096);

}  // namespace sapag::gpu
