// Segments that nothing on chip can hold, and the sums or V alone: partial sums of chunks, an ordered merge
// (merge.cu), and a second sweep.
//
// Stages                                                                bytes an element (float32)
//   difference_pass, target_pass: a warp takes a chunk, unit by unit,     8 or 4 read
//     adds the units' sums in its lanes and writes one row
//   apply_pass: a warp takes a chunk with its segment's coefficients,     8 read, 4 written
//     the last chunk first: it meets what L2 still holds
#include "segment.cuh"
// segment.cuh comes first: it supplies what the rest is written in.
#include "dispatch.cuh"
#include "kernels.h"

namespace sapag::gpu {
namespace {

// The segment to which a chunk of one recovery belongs; *chunk becomes the segment's own.
template <int kPieces>
__device__ __forceinline__ const Segment& segment_of(const PassParameters<kPieces>& parameters,
                                                     int64_t* chunk) {
  int low = 0, high = parameters.segments - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (parameters.table.segments[middle].launch_chunk <= *chunk) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const Segment& segment = parameters.table.segments[low];
  *chunk -= segment.launch_chunk;
  return segment;
}

// visit(recovery, segment, chunk) for this warp's chunks, of all recoveries.
template <bool kBackwards, int kPieces, class Visit>
__device__ __forceinline__ void for_chunks(const PassParameters<kPieces>& parameters, Visit&& visit) {
  const int warps = blockDim.x / kWarpSize;
  const int64_t tasks = parameters.recoveries * parameters.launch_chunks;
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * warps + warp(); i < tasks; i += step) {
    const int64_t task = kBackwards ? tasks - 1 - i : i;
    int64_t chunk = task % parameters.launch_chunks;
    const Segment& segment = segment_of(parameters, &chunk);
    visit(task / parameters.launch_chunks, segment, static_cast<int>(chunk));
  }
}

template <int kPieces>
__device__ __forceinline__ void write_row(const PassParameters<kPieces>& parameters, int64_t recovery,
                                          const Segment& segment, int chunk, int columns, bool extra,
                                          const LaneSums& sums) {
  double* const row =
      parameters.partial + recovery * columns * parameters.chunks + segment.first_chunk + chunk;
  for_columns(sums, extra, [&](int column, double sum) { row[column * parameters.chunks] = sum; });
}

template <class T, int kPieces>
__global__ void __launch_bounds__(kPassThreads)
    difference_pass(SAPAG_PARAMETER(PassParameters<kPieces>) parameters) {
  const bool extra = parameters.extra != 0;
  for_chunks<false>(parameters, [&](int64_t recovery, const Segment& segment, int chunk) {
    LaneSums total;
    for (int i = chunk * kChunkUnits; i < (chunk + 1) * kChunkUnits && i < segment.units; ++i) {
      const LaneSums sums = difference_sums(unit_of<T>(parameters.table, segment, recovery, i), extra, false,
                                            [](int, const uint4&, const uint4&) {});
      total.main += sums.main;
      total.extra += sums.extra;
    }
    write_row(parameters, recovery, segment, chunk, kColumns, extra, total);
  });
}

template <class T, int kPieces>
__global__ void __launch_bounds__(kPassThreads)
    target_pass(SAPAG_PARAMETER(PassParameters<kPieces>) parameters) {
  for_chunks<false>(parameters, [&](int64_t recovery, const Segment& segment, int chunk) {
    const double shift = to_number(static_cast<const T*>(segment.shift)[recovery * segment.shift_stride]);
    LaneSums total;
    for (int i = chunk * kChunkUnits; i < (chunk + 1) * kChunkUnits && i < segment.units; ++i) {
      total.main += target_sums(unit_of<T>(parameters.table, segment, recovery, i), shift).main;
    }
    if (column_of_lane() == kShift) total.main = shift;
    write_row(parameters, recovery, segment, chunk, kTargetColumns, false, total);
  });
}

template <class T, int kPieces>
__global__ void __launch_bounds__(kPassThreads)
    apply_pass(SAPAG_PARAMETER(PassParameters<kPieces>) parameters) {
  for_chunks<true>(parameters, [&](int64_t recovery, const Segment& segment, int chunk) {
    const Affine<T> affine(parameters.slopes[recovery * parameters.layers + segment.layer]);
    for (int i = chunk * kChunkUnits; i < (chunk + 1) * kChunkUnits && i < segment.units; ++i) {
      apply_unit(unit_of<T>(parameters.table, segment, recovery, i), affine);
    }
  });
}

}  // namespace

template <int kPieces>
int launch_difference_pass(Scalar scalar, const PassParameters<kPieces>& parameters, const Shape& shape,
                           void* stream) {
  return dispatch(scalar, [&](auto element) {
    return launch(difference_pass<decltype(element), kPieces>, {shape.grid, shape.threads}, stream,
                  parameters);
  });
}
template <int kPieces>
int launch_target_pass(Scalar scalar, const PassParameters<kPieces>& parameters, const Shape& shape,
                       void* stream) {
  return dispatch(scalar, [&](auto element) {
    return launch(target_pass<decltype(element), kPieces>, {shape.grid, shape.threads}, stream, parameters);
  });
}
template <int kPieces>
int launch_apply_pass(Scalar scalar, const PassParameters<kPieces>& parameters, const Shape& shape,
                      void* stream) {
  return dispatch(scalar, [&](auto element) {
    return launch(apply_pass<decltype(element), kPieces>, {shape.grid, shape.threads}, stream, parameters);
  });
}

template int launch_difference_pass(Scalar, const PassParameters<kSmallTable>&, const Shape&, void*);
template int launch_difference_pass(Scalar, const PassParameters<kLargeTable>&, const Shape&, void*);
template int launch_target_pass(Scalar, const PassParameters<kSmallTable>&, const Shape&, void*);
template int launch_target_pass(Scalar, const PassParameters<kLargeTable>&, const Shape&, void*);
template int launch_apply_pass(Scalar, const PassParameters<kSmallTable>&, const Shape&, void*);
template int launch_apply_pass(Scalar, const PassParameters<kLargeTable>&, const Shape&, void*);

}  // namespace sapag::gpu
