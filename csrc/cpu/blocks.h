// The face of the vector kernels: sums and coefficients over one block of one tensor. Each instruction set
// compiles blocks.inl once; driver.cpp picks one table at run time and never looks inside.
#pragma once

#include <cstdint>

#include "../sapag.h"

namespace sapag::cpu {

// Sums run in float64 lanes over a block and are merged block by block. The length lets the second pass over
// the target find its block in the first-level cache.
constexpr int64_t kBlock = 4096;

// Mean and squared deviations of a run of elements, mergeable in float64.
struct Moments {
  double count = 0, mean = 0, deviation = 0, square = 0;
};

struct BlockKernels {
  // sums += the block's (sum and absolute only if extra); moments (of the target's elements alone) only where
  // asked for.
  void (*difference)(const void* dummy, const void* target, int64_t n, bool extra, DifferenceSums* sums);
  void (*both)(const void* dummy, const void* target, int64_t n, bool extra, DifferenceSums* sums,
               Moments* moments);
  void (*target)(const void* target, int64_t n, Moments* moments);
  // stream: write around the cache, for results that would only push other data out of it.
  void (*apply)(const void* dummy, const void* target, void* out, int64_t n, const Coefficients& c,
                bool stream);
};

// One table for each Scalar, in its order.
namespace baseline {
extern const BlockKernels kernels[4];
}
#if defined(__x86_64__)
namespace avx2 {
extern const BlockKernels kernels[4];
}
namespace avx512 {
extern const BlockKernels kernels[4];
}
#endif

}  // namespace sapag::cpu
