// The kernels, one launch each. Every function returns 0 or the number of a cudaError_t.
#pragma once

#include "table.h"

namespace sapag::gpu {

struct Shape {
  int grid = 1;
  int threads = 32;
  int cluster = 1;
  int shared_bytes = 0;
};

// Defined for kSmallTable and kLargeTable.
template <int kPieces>
int launch_block_tier(Scalar scalar, const TierParameters<kPieces>& parameters, const Shape& shape,
                      void* stream);
template <int kPieces>
int launch_cluster_tier(Scalar scalar, const TierParameters<kPieces>& parameters, const Shape& shape,
                        void* stream);
template <int kPieces>
int launch_grid_tier(Scalar scalar, const TierParameters<kPieces>& parameters, const Shape& shape,
                     void* stream);
template <int kPieces>
int launch_difference_pass(Scalar scalar, const PassParameters<kPieces>& parameters, const Shape& shape,
                           void* stream);
template <int kPieces>
int launch_both_pass(Scalar scalar, const PassParameters<kPieces>& parameters, const Shape& shape,
                     void* stream);
template <int kPieces>
int launch_target_pass(Scalar scalar, const PassParameters<kPieces>& parameters, const Shape& shape,
                       void* stream);
template <int kPieces>
int launch_apply_pass(Scalar scalar, const PassParameters<kPieces>& parameters, const Shape& shape,
                      void* stream);

int launch_merge(const MergeParameters& parameters, const Shape& shape, void* stream);
int launch_scale(Scalar scalar, const ScaleParameters& parameters, const Shape& shape, void* stream);
int launch_clear_barriers(void* barriers, int count, void* stream);
// D[r] = the layers' shares in order, without those that are taken back; value is float[R], or double[R] if
// wide.
int launch_finish(const Problem& problem, int64_t recoveries, void* value, bool wide, void* stream);

// Bytes of dynamic shared memory that a CTA of a tier needs.
SAPAG_HD constexpr int64_t held_bytes(int64_t units) {
  return units * 2 * kUnitBytes;
}
SAPAG_HD constexpr int64_t unit_sum_bytes(int64_t units) {
  return units * kAllColumns * static_cast<int64_t>(sizeof(double));
}
SAPAG_HD constexpr int64_t chunk_sum_bytes(int64_t chunks) {
  return chunks * kAllColumns * static_cast<int64_t>(sizeof(double));
}

// The most chunks of one segment that a grid tier merges on its own.
constexpr int kGridSupers = 16;
constexpr int kGridBarrierBytes = 8;
// Threads that the kernels' registers are bounded for.
constexpr int kBlockThreads = 256, kClusterThreads = 256, kGridThreads = 384, kPassThreads = 128;
constexpr int kMergeThreads = 256, kScaleThreads = 128;
// Shared memory that their static arrays take at most.
constexpr int kBlockStaticBytes = 1536, kClusterStaticBytes = 256, kGridStaticBytes = 1536;
// What a packed segment has at most.
constexpr int kPackedUnits = 2 * kChunkUnits;

}  // namespace sapag::gpu
