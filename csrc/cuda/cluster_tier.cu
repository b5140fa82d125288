// Segments of the size of several CTAs' shared memory: one thread-block cluster each (sm_90 and later).
//
// Stages                                                                bytes an element (float32)
//   1. each CTA reads its run of units once and keeps as many as fit      8 read (the rest again from L2)
//   2. it merges units into chunks and lets the cluster see them
//   3. after the cluster's barrier each CTA merges all chunks, read       (distributed shared memory)
//      from the others' shared memory: the same bits in every CTA
//   4. one thread solves; a second barrier: no CTA may end while another
//      still reads its shared memory
//   5. each warp writes V for its own units                               4 written
#include "segment.cuh"
// segment.cuh comes first: it supplies what the rest is written in.
#include "dispatch.cuh"
#include "kernels.h"

namespace sapag::gpu {
namespace {

struct TotalsTag {};
struct SlopeTag {};

template <class T, int kPieces>
__global__ void __launch_bounds__(kClusterThreads, 3)
    cluster_tier(SAPAG_PARAMETER(TierParameters<kPieces>) parameters) {
  uint4* const held = dyn_shared<uint4>();
  double* const unit_sums = reinterpret_cast<double*>(dyn_shared<char>() + held_bytes(parameters.held));
  const int most = parameters.chunks;  // of one CTA, for any segment of this launch
  double* const chunk_sums = unit_sums + kAllColumns * kChunkUnits * most;
  double* const totals = static_shared<double, kAllColumns, TotalsTag>();
  Coefficients* const slope = static_shared<Coefficients, 1, SlopeTag>();

  const int64_t item = static_cast<int64_t>(blockIdx.x) / cluster_size();
  const int64_t recovery = item / parameters.segments;
  const Segment& segment = parameters.table.segments[item % parameters.segments];
  const int warps = blockDim.x / kWarpSize, capacity = most * kChunkUnits;
  const int chunks = chunks_of(segment), share = (chunks + cluster_size() - 1) / cluster_size();
  const int first = cluster_rank() * share * kChunkUnits, rest = segment.units - first;
  const int units = rest < 0 ? 0 : rest < share * kChunkUnits ? rest : share * kChunkUnits;
  const Problem& problem = parameters.problem;
  const int columns = columns_of(problem);
  const bool solver = warp() == warps - 1;
  const double whole = solver ? whole_square(problem, recovery) : 0;

  for (int i = warp(); i < units; i += warps) {
    const Unit<T> unit = unit_of<T>(parameters.table, segment, recovery, first + i);
    const bool hold = i < parameters.held;
    const LaneSums sums = unit_sums_of(unit, segment, recovery, columns, !hold, Hold{held, i, hold});
    for_columns(sums, columns, [&](int column, double sum) { unit_sums[column * capacity + i] = sum; });
  }
  __syncthreads();
  for (int i = threadIdx.x; i < share * columns; i += blockDim.x) {
    const int column = i / share, chunk = i % share;
    chunk_sums[column * most + chunk] =
        merge_units(unit_sums + column * capacity + chunk * kChunkUnits, units - chunk * kChunkUnits);
  }
  cluster_sync();

  for (int column = warp(); column < columns; column += warps) {
    double total = 0;
    for (int base = 0; base < chunks; base += kSuperChunks) {
      total += merge_super(base, chunks, [&](int chunk) {
        const int rank = chunk / share;
        return cluster_map(chunk_sums, rank)[column * most + chunk % share];
      });
    }
    if (lane() == 0) totals[column] = total;
  }
  __syncthreads();
  if (solver && lane() == 0) {
    const double shift = problem.sum_target ? shift_of<T>(segment, recovery) : 0;
    const bool writes = cluster_rank() == 0;
    solve(problem, recovery, segment.layer, segment.size, whole, totals, shift, writes, slope);
  }
  cluster_sync();

  const Affine<T> affine(*slope, slope);
  for (int i = warp(); i < units; i += warps) {
    const Unit<T> unit = unit_of<T>(parameters.table, segment, recovery, first + i);
    if (i < parameters.held) {
      apply_held(unit, affine, held, i);
    } else {
      apply_unit(unit, affine);
    }
  }
}

}  // namespace

template <int kPieces>
int launch_cluster_tier(Scalar scalar, const TierParameters<kPieces>& parameters, const Shape& shape,
                        void* stream) {
  return dispatch(scalar, [&](auto element) {
    return launch(cluster_tier<decltype(element), kPieces>,
                  {shape.grid, shape.threads, shape.shared_bytes, shape.cluster}, stream, parameters);
  });
}

template int launch_cluster_tier(Scalar, const TierParameters<kSmallTable>&, const Shape&, void*);
template int launch_cluster_tier(Scalar, const TierParameters<kLargeTable>&, const Shape&, void*);

}  // namespace sapag::gpu
