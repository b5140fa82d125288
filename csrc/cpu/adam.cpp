// Adam for all recoveries on the CPU: each recovery's own count gives its coefficients, then runs of elements
// are shared out among the threads. Every element is computed alone, so no sum's order can change.

#include "adam.h"

#include <cmath>
#include <cstring>

namespace sapag::cpu {
namespace {

constexpr int64_t kRun = 1 << 14;
constexpr int64_t kSerialElements = 1 << 15;  // less work than this is not worth waking threads for

AdamKernel chosen_kernel(Scalar scalar) {
  const AdamKernel* kernels = baseline::adam_kernels;
#if defined(__x86_64__)
  if (std::strcmp(capability(), "avx512") == 0) kernels = avx512::adam_kernels;
  if (std::strcmp(capability(), "avx2") == 0) kernels = avx2::adam_kernels;
#endif
  return kernels[scalar == Scalar::f64];
}

AdamCoefficients coefficients(const AdamTable& table, int64_t call) {
  double lr = table.lr;
  for (const int64_t milestone : table.milestones)
    if (milestone > 0 && milestone < call) lr *= table.decay;
  const double count = static_cast<double>(call);
  return {1 - table.beta1,
          1 - table.beta2,
          table.beta2,
          -lr / (1 - std::pow(table.beta1, count)),
          1 / (1 - std::pow(table.beta2, count)),
          table.eps};
}

struct Share {
  const AdamTable& table;
  AdamKernel kernel;
  const std::vector<AdamCoefficients>& with;
  int64_t runs;  // of one recovery

  void run(int64_t i) const {
    const int64_t recovery = i / runs, from = i % runs * kRun;
    const int64_t n = table.size - from < kRun ? table.size - from : kRun;
    kernel(table, recovery * table.size + from, n, with[recovery]);
  }
};

}  // namespace

void adam_step(const AdamTable& table, const Parallel& parallel) {
  std::vector<AdamCoefficients> with;
  for (int64_t r = 0; r < table.recoveries; ++r) with.push_back(coefficients(table, ++table.calls[r]));
  Share share{table, chosen_kernel(table.scalar), with, (table.size + kRun - 1) / kRun};
  const int64_t count = table.recoveries * share.runs;
  if (parallel.threads <= 1 || table.recoveries * table.size < kSerialElements) {
    for (int64_t i = 0; i < count; ++i) share.run(i);
    return;
  }
  parallel.run(count, [](void* context, int64_t i) { static_cast<const Share*>(context)->run(i); }, &share);
}

}  // namespace sapag::cpu
