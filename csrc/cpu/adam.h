// The face of Adam on the CPU: the moments of all recoveries as plain data, and one step for each of them.
#pragma once

#include <cstdint>
#include <vector>

#include "../sapag.h"

namespace sapag::cpu {

struct AdamTable {
  Scalar scalar;  // f32 or f64; the type behind every void pointer
  int64_t recoveries, size;
  double lr, decay, beta1, beta2, eps;
  bool signs;                       // feeds sign(g) instead of g
  std::vector<int64_t> milestones;  // calls after which the rate is multiplied by decay
  void* mean;                       // [R, N], like square, gradient and change
  void* square;
  int64_t* calls;  // [R]
  const void* gradient;
  void* change;
};

void adam_step(const AdamTable& table, const Parallel& parallel);

// What one recovery's elements are updated with at its present call.
struct AdamCoefficients {
  double mean, square;      // 1 - beta1, 1 - beta2
  double keep_square;       // beta2
  double rate, correction;  // -lr / (1 - beta1^calls), 1 / (1 - beta2^calls)
  double eps;
};

// n elements from the given one on. One entry for f32, one for f64.
using AdamKernel = void (*)(const AdamTable& table, int64_t from, int64_t n, const AdamCoefficients& with);
namespace baseline {
extern const AdamKernel adam_kernels[2];
}
#if defined(__x86_64__)
namespace avx2 {
extern const AdamKernel adam_kernels[2];
}
namespace avx512 {
extern const AdamKernel adam_kernels[2];
}
#endif

}  // namespace sapag::cpu
