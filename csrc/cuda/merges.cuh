// Sums of units to those of chunks, sums of chunks to those of the segment, always in the same order.
#pragma once

#include "unit_sums.cuh"

namespace sapag::gpu {

// The sum of a super's chunks from `base`, in every lane of a warp; at(chunk) gives one chunk's sum.
template <class At>
__device__ __forceinline__ double merge_super(int base, int chunks, At&& at) {
  constexpr int kAhead = 8;  // loads in flight
  double mine = 0;
#pragma unroll 1
  for (int group = 0; group < kWarpSize && base + group * kGroupChunks < chunks; group += kAhead) {
    double values[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int chunk = base + (group + k) * kGroupChunks + lane();
      values[k] = chunk < chunks ? at(chunk) : 0.0;
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const double sum = butterfly(values[k]);
      if (lane() == group + k) mine = sum;
    }
  }
  return butterfly(mine);
}

// The sum of a chunk from its units' sums.
__device__ __forceinline__ double merge_units(const double* units, int count) {
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kChunkUnits; ++i) {
    if (i < count) sum += units[i];
  }
  return sum;
}

}  // namespace sapag::gpu
