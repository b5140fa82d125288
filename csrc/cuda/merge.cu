// The ends of a distance that touch no gradients.
//
// Stages
//   merge_chunks: one CTA a segment of one recovery
//     1. a warp sums a super of one column; thread by column adds the supers in order
//     2. one thread turns the totals into what was asked for: a row of sums, or D's share and V's
//     coefficients
//   finish: one warp a recovery, the shares of its layers in a fixed order; where the tiers summed the
//   target,
//     only now is it known which layers are negligible beside the others: theirs are taken back
#include "segment.cuh"
// segment.cuh comes first: it supplies what the rest is written in.
#include "kernels.h"
#include "launch.h"

namespace sapag::gpu {
namespace {

constexpr int kSupers = 32;  // at a time

struct SupersTag {};
struct TotalsTag {};

__global__ void __launch_bounds__(kMergeThreads, 2)
    merge_chunks(SAPAG_PARAMETER(MergeParameters) parameters) {
  double* const supers = static_shared<double, kColumns * kSupers, SupersTag>();
  double* const totals = static_shared<double, kColumns, TotalsTag>();
  const int64_t recovery = static_cast<int64_t>(blockIdx.x) / parameters.merges;
  const Merge& merge = parameters.table[blockIdx.x % parameters.merges];
  const bool target = parameters.to == MergeTo::target_sums;
  const int columns = target ? kTargetColumns : kColumns;
  const double* const partial =
      parameters.partial + recovery * columns * parameters.chunks + merge.first_chunk;
  const Problem& problem = parameters.problem;
  // l1's columns exist only where they were asked for.
  const bool extra = parameters.to == MergeTo::difference_sums || needs_extra(problem.options.kind);
  const int merged = target ? kShift : extra ? kColumns : kSum;
  const int warps = blockDim.x / kWarpSize;

  double total = 0;  // of the column that is the thread's number
  const int parts = (merge.chunks + kSuperChunks - 1) / kSuperChunks;
  for (int base = 0; base < parts; base += kSupers) {
    const int count = parts - base < kSupers ? parts - base : kSupers;
    for (int task = warp(); task < count * merged; task += warps) {
      const int column = task / count, super = task % count;
      const double* const sums = partial + column * parameters.chunks;
      const double sum =
          merge_super((base + super) * kSuperChunks, merge.chunks, [&](int chunk) { return sums[chunk]; });
      if (lane() == 0) supers[column * kSupers + super] = sum;
    }
    __syncthreads();
    for (int super = 0; static_cast<int>(threadIdx.x) < merged && super < count; ++super) {
      total += supers[threadIdx.x * kSupers + super];
    }
    __syncthreads();
  }
  if (threadIdx.x < kColumns) totals[threadIdx.x] = total;
  __syncthreads();
  if (warp() != 0) return;

  const int64_t row = recovery * problem.layers + merge.layer;
  const double whole = parameters.to == MergeTo::coefficients ? whole_square(problem, recovery) : 0;
  if (lane() != 0) return;
  if (parameters.to == MergeTo::coefficients) {
    Coefficients slope;
    solve(problem, recovery, merge.layer, merge.size, whole, totals, 0, true, &slope);
    if (parameters.result) static_cast<Coefficients*>(parameters.result)[row] = slope;
  } else if (target) {
    const double shift = merge.chunks > 0 ? partial[kShift * parameters.chunks] : 0;
    static_cast<TargetSums*>(parameters.result)[row] = unshifted(totals, merge.size, shift);
  } else {
    DifferenceSums sums;
    sums.sum = totals[kSum];
    sums.square = totals[kSquare];
    sums.cross = totals[kCross];
    sums.dummy_square = totals[kDummySquare];
    sums.inner = totals[kInner];
    sums.absolute = totals[kAbsolute];
    static_cast<DifferenceSums*>(parameters.result)[row] = sums;
  }
}

__global__ void __launch_bounds__(kMergeThreads)
    finish(SAPAG_PARAMETER(Problem) problem, int64_t recoveries, void* value, int wide) {
  const int64_t recovery = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarpSize) + warp();
  if (recovery >= recoveries) return;
  const double whole = problem.marks ? whole_square(problem, recovery) : 0;
  double sum = 0;
  for (int64_t layer = lane(); layer < problem.layers; layer += kWarpSize) {
    const int64_t row = recovery * problem.layers + layer;
    double share = problem.shares[row];
    if (problem.marks) {
      const TargetSums& target = problem.target[recovery * problem.target_stride + layer];
      const bool back = problem.marks[row] != 0 && is_negligible(target, whole);
      problem.marks[row] = back;
      if (back) share = 0;
    }
    sum += share;
  }
  sum = butterfly(sum);
  if (lane() != 0) return;
  if (wide) {
    static_cast<double*>(value)[recovery] = sum;
  } else {
    static_cast<float*>(value)[recovery] = static_cast<float>(sum);
  }
}

}  // namespace

int launch_merge(const MergeParameters& parameters, const Shape& shape, void* stream) {
  return launch(merge_chunks, {shape.grid, shape.threads}, stream, parameters);
}

int launch_finish(const Problem& problem, int64_t recoveries, void* value, bool wide, void* stream) {
  constexpr int kWarps = 4;
  const int grid = static_cast<int>((recoveries + kWarps - 1) / kWarps);
  return launch(finish, {grid, kWarps * 32}, stream, problem, recoveries, value, wide ? 1 : 0);
}

}  // namespace sapag::gpu
