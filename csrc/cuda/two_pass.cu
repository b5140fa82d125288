// Segments that nothing on chip can hold, and the sums or V alone: partial sums of chunks, an ordered merge
// (merge.cu), and a second sweep.
//
// Stages                                                                bytes an element (float32)
//   difference_pass, both_pass, target_pass: a warp takes a chunk, unit   8 or 4 read
//     by unit, adds the units' sums in its lanes and writes one row; of
//     the difference, of the target too, or of the target alone
//   apply_pass: a warp takes a chunk with its segment's coefficients,     8 read, 4 written
//     the last chunk first: it meets what L2 still holds. Or only the
//     chunks of marked layers, which are few if any, to make V zero
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
__device__ __forceinline__ void write_difference(const PassParameters<kPieces>& parameters, int64_t recovery,
                                                 const Segment& segment, int chunk, bool extra,
                                                 const LaneSums& sums) {
  double* const row =
      parameters.partial + recovery * kColumns * parameters.chunks + segment.first_chunk + chunk;
  for_columns(sums, extra ? kColumns : kSum,
              [&](int column, double sum) { row[column * parameters.chunks] = sum; });
}

template <int kPieces>
__device__ __forceinline__ void write_target(const PassParameters<kPieces>& parameters, int64_t recovery,
                                             const Segment& segment, int chunk, double shift,
                                             const LaneSums& sums) {
  double* const row =
      parameters.target_partial + recovery * kTargetColumns * parameters.chunks + segment.first_chunk + chunk;
  const int column = column_of_lane();
  if (lane() % 8 == 0) row[column * parameters.chunks] = column == kShift ? shift : sums.target;
}

// The sums of one chunk by sums_of(unit).
template <class T, int kPieces, class SumsOf>
__device__ __forceinline__ LaneSums sums_of_chunk(const PassParameters<kPieces>& parameters, int64_t recovery,
                                                  const Segment& segment, int chunk, SumsOf&& sums_of) {
  LaneSums total;
  for (int i = chunk * kChunkUnits; i < (chunk + 1) * kChunkUnits && i < segment.units; ++i) {
    total.add(sums_of(unit_of<T>(parameters.table, segment, recovery, i)));
  }
  return total;
}

template <class T, int kPieces>
__global__ void __launch_bounds__(kPassThreads)
    difference_pass(SAPAG_PARAMETER(PassParameters<kPieces>) parameters) {
  const bool extra = parameters.extra != 0;
  for_chunks<false>(parameters, [&](int64_t recovery, const Segment& segment, int chunk) {
    const LaneSums sums = sums_of_chunk<T>(parameters, recovery, segment, chunk, [&](const Unit<T>& unit) {
      return extra ? sums_of_unit<T, true, false, kVectors>(unit, 0, false, KeepNothing{})
                   : sums_of_unit<T, false, false, kVectors>(unit, 0, false, KeepNothing{});
    });
    write_difference(parameters, recovery, segment, chunk, extra, sums);
  });
}

template <class T, int kPieces>
__global__ void __launch_bounds__(kPassThreads)
    both_pass(SAPAG_PARAMETER(PassParameters<kPieces>) parameters) {
  for_chunks<false>(parameters, [&](int64_t recovery, const Segment& segment, int chunk) {
    const double shift = shift_of<T>(segment, recovery);
    const LaneSums sums = sums_of_chunk<T>(parameters, recovery, segment, chunk, [&](const Unit<T>& unit) {
      return sums_of_unit<T, true, true, kVectors / 2>(unit, shift, false, KeepNothing{});
    });
    write_difference(parameters, recovery, segment, chunk, true, sums);
    write_target(parameters, recovery, segment, chunk, shift, sums);
  });
}

template <class T, int kPieces>
__global__ void __launch_bounds__(kPassThreads)
    target_pass(SAPAG_PARAMETER(PassParameters<kPieces>) parameters) {
  for_chunks<false>(parameters, [&](int64_t recovery, const Segment& segment, int chunk) {
    const double shift = shift_of<T>(segment, recovery);
    const LaneSums sums = sums_of_chunk<T>(parameters, recovery, segment, chunk,
                                           [&](const Unit<T>& unit) { return target_sums(unit, shift); });
    write_target(parameters, recovery, segment, chunk, shift, sums);
  });
}

// Six CTAs an SM: left alone, ptxas would rather spill around the call for wide coefficients than use 80
// registers.
template <class T, int kPieces>
__global__ void __launch_bounds__(kPassThreads, 6)
    apply_pass(SAPAG_PARAMETER(PassParameters<kPieces>) parameters) {
  for_chunks<true>(parameters, [&](int64_t recovery, const Segment& segment, int chunk) {
    const int64_t row = recovery * parameters.layers + segment.layer;
    if (parameters.marks && !parameters.marks[row]) return;
    // By the same arithmetic also where V is 0: so are the zeros' signs the same.
    const Coefficients* const slope = parameters.marks ? nullptr : parameters.slopes + row;
    const Affine<T> affine(slope ? *slope : Coefficients{}, slope);
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
int launch_both_pass(Scalar scalar, const PassParameters<kPieces>& parameters, const Shape& shape,
                     void* stream) {
  return dispatch(scalar, [&](auto element) {
    return launch(both_pass<decltype(element), kPieces>, {shape.grid, shape.threads}, stream, parameters);
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
template int launch_both_pass(Scalar, const PassParameters<kSmallTable>&, const Shape&, void*);
template int launch_both_pass(Scalar, const PassParameters<kLargeTable>&, const Shape&, void*);
template int launch_target_pass(Scalar, const PassParameters<kSmallTable>&, const Shape&, void*);
template int launch_target_pass(Scalar, const PassParameters<kLargeTable>&, const Shape&, void*);
template int launch_apply_pass(Scalar, const PassParameters<kSmallTable>&, const Shape&, void*);
template int launch_apply_pass(Scalar, const PassParameters<kLargeTable>&, const Shape&, void*);

}  // namespace sapag::gpu
