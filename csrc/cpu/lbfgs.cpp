// L-BFGS for all recoveries on the CPU. A thread walks a run of neighbouring recoveries, one at a time;
// nothing of a recovery's arithmetic depends on the others or on the number of threads.

#include "lbfgs.h"

#include <cstring>
#include <vector>

namespace sapag::cpu {
namespace {

const LbfgsKernel* chosen_kernels() {
#if defined(__x86_64__)
  if (std::strcmp(capability(), "avx512") == 0) return avx512::lbfgs_kernels;
  if (std::strcmp(capability(), "avx2") == 0) return avx2::lbfgs_kernels;
#endif
  return baseline::lbfgs_kernels;
}

struct Share {
  const LbfgsTable& table;
  LbfgsKernel kernel;
  int64_t workers;
};

void work(void* context, int64_t worker) {
  const Share& share = *static_cast<const Share*>(context);
  constexpr int64_t kAlignment = 64 / sizeof(double);
  std::vector<double> memory(lbfgs_scratch(share.table) + kAlignment);
  const auto past = reinterpret_cast<uintptr_t>(memory.data()) / sizeof(double) % kAlignment;
  double* scratch = memory.data() + (past ? kAlignment - past : 0);
  const int64_t end = (worker + 1) * share.table.recoveries / share.workers;
  for (int64_t recovery = worker * share.table.recoveries / share.workers; recovery < end; ++recovery) {
    share.kernel(share.table, recovery, scratch);
  }
}

}  // namespace

void lbfgs_step(const LbfgsTable& table, const Parallel& parallel) {
  if (table.recoveries == 0) return;
  const int64_t workers = parallel.threads < table.recoveries ? parallel.threads : table.recoveries;
  Share share{table, chosen_kernels()[table.scalar == Scalar::f64], workers < 1 ? 1 : workers};
  if (share.workers == 1) return work(&share, 0);
  parallel.run(share.workers, work, &share);
}

}  // namespace sapag::cpu
