// Small segments: one CTA each, or one warp each for the smallest ("packed").
//
// Stages                                                                bytes an element (float32)
//   A CTA:
//   1. warps read the segment's units once, keep them in shared memory    8 read
//      and leave each unit's sums there too
//   2. one warp a column merges the sums in the fixed order               (shared memory)
//   3. one thread turns them into D's share and V's coefficients
//   4. each warp writes V for the units that it keeps itself              4 written
//   A warp:
//   1. reads its few units one after the other; a lane adds up a column   8 read
//   2. one thread solves, the lanes share the coefficients
//   3. reads the units again, which L1 or L2 still hold; writes V         4 written
#include "segment.cuh"
// segment.cuh comes first: it supplies what the rest is written in.
#include "dispatch.cuh"
#include "kernels.h"

namespace sapag::gpu {
namespace {

constexpr int kMaxWarps = kBlockThreads / 32;
// A packed warp has the totals of its segment and of the chunk that it is in.
constexpr int kTotals = 2 * kAllColumns * kMaxWarps;

struct TotalsTag {};
struct SlopeTag {};

template <class T, int kPieces>
__device__ __forceinline__ void one_cta(const TierParameters<kPieces>& parameters, int64_t recovery,
                                        const Segment& segment) {
  uint4* const held = dyn_shared<uint4>();
  double* const unit_sums = reinterpret_cast<double*>(dyn_shared<char>() + held_bytes(parameters.held));
  double* const totals = static_shared<double, kTotals, TotalsTag>();
  Coefficients* const slope = static_shared<Coefficients, kMaxWarps, SlopeTag>();
  const int warps = blockDim.x / kWarpSize, units = segment.units;
  const int columns = columns_of(parameters.problem);
  const bool solver = warp() == warps - 1;
  const double whole = solver ? whole_square(parameters.problem, recovery) : 0;

  for (int i = warp(); i < units; i += warps) {
    const Unit<T> unit = unit_of<T>(parameters.table, segment, recovery, i);
    const LaneSums sums =
        unit_sums_of(unit, segment, recovery, columns, false, Hold{held, i, parameters.with_gradient != 0});
    for_columns(sums, columns, [&](int column, double sum) { unit_sums[column * units + i] = sum; });
  }
  __syncthreads();

  const int chunks = chunks_of(segment);
  for (int column = warp(); column < columns; column += warps) {
    double total = 0;
    for (int base = 0; base < chunks; base += kSuperChunks) {
      total += merge_super(base, chunks, [&](int chunk) {
        const int first = chunk * kChunkUnits;
        return merge_units(unit_sums + column * units + first, units - first);
      });
    }
    if (lane() == 0) totals[column] = total;
  }
  __syncthreads();

  if (solver && lane() == 0) {
    const Problem& problem = parameters.problem;
    const double shift = problem.sum_target && units > 0 ? shift_of<T>(segment, recovery) : 0;
    solve(problem, recovery, segment.layer, segment.size, whole, totals, shift, true, slope);
  }
  if (!parameters.with_gradient) return;
  __syncthreads();

  const Affine<T> affine(*slope, slope);
  for (int i = warp(); i < units; i += warps) {
    apply_held(unit_of<T>(parameters.table, segment, recovery, i), affine, held, i);
  }
}

template <class T, int kPieces>
__device__ __forceinline__ void one_warp(const TierParameters<kPieces>& parameters, int64_t recovery,
                                         const Segment& segment) {
  double* const totals = static_shared<double, kTotals, TotalsTag>() + warp() * 2 * kAllColumns;
  double* const chunk = totals + kAllColumns;
  Coefficients* const slope = static_shared<Coefficients, kMaxWarps, SlopeTag>() + warp();
  const Problem& problem = parameters.problem;
  const int columns = columns_of(problem);
  const double whole = whole_square(problem, recovery);

  // A column is one lane's throughout.
  for_columns(LaneSums(), kAllColumns, [&](int column, double) { totals[column] = chunk[column] = 0; });
  for (int i = 0; i < segment.units; ++i) {
    const LaneSums sums = unit_sums_of(unit_of<T>(parameters.table, segment, recovery, i), segment, recovery,
                                       columns, parameters.with_gradient != 0, KeepNothing{});
    const bool ends = (i + 1) % kChunkUnits == 0 || i + 1 == segment.units;
    for_columns(sums, columns, [&](int column, double sum) {
      chunk[column] += sum;
      if (ends) {
        totals[column] += chunk[column];
        chunk[column] = 0;
      }
    });
  }
  __syncwarp();

  if (lane() == 0) {
    const double shift = problem.sum_target && segment.units > 0 ? shift_of<T>(segment, recovery) : 0;
    solve(problem, recovery, segment.layer, segment.size, whole, totals, shift, true, slope);
  }
  __syncwarp();
  if (!parameters.with_gradient) return;

  const Affine<T> affine(*slope, slope);
  for (int i = 0; i < segment.units; ++i) {
    apply_unit(unit_of<T>(parameters.table, segment, recovery, i), affine);
  }
}

// CTAs of their own first: they take longest.
template <class T, int kPieces>
__global__ void __launch_bounds__(kBlockThreads, 3)
    block_tier(SAPAG_PARAMETER(TierParameters<kPieces>) parameters) {
  const int alone = parameters.segments - parameters.packed;
  const int64_t ctas = parameters.recoveries * alone;
  if (static_cast<int64_t>(blockIdx.x) < ctas) {
    const int64_t recovery = static_cast<int64_t>(blockIdx.x) / alone;
    const int index = static_cast<int>(static_cast<int64_t>(blockIdx.x) % alone);
    one_cta<T>(parameters, recovery, parameters.table.segments[index]);
  } else {
    const int64_t item = (static_cast<int64_t>(blockIdx.x) - ctas) * (blockDim.x / kWarpSize) + warp();
    if (item >= parameters.recoveries * parameters.packed) return;
    const int64_t recovery = item / parameters.packed;
    const int index = alone + static_cast<int>(item % parameters.packed);
    one_warp<T>(parameters, recovery, parameters.table.segments[index]);
  }
}

}  // namespace

template <int kPieces>
int launch_block_tier(Scalar scalar, const TierParameters<kPieces>& parameters, const Shape& shape,
                      void* stream) {
  return dispatch(scalar, [&](auto element) {
    return launch(block_tier<decltype(element), kPieces>, {shape.grid, shape.threads, shape.shared_bytes},
                  stream, parameters);
  });
}

template int launch_block_tier(Scalar, const TierParameters<kSmallTable>&, const Shape&, void*);
template int launch_block_tier(Scalar, const TierParameters<kLargeTable>&, const Shape&, void*);

}  // namespace sapag::gpu
