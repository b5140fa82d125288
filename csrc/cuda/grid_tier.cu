// Segments too large for a cluster: the whole grid takes them in waves, as many segments at a time as its
// shared memory and part of L2 hold.
//
// Stages                                                                bytes an element (float32)
//   for each wave:
//   1. each CTA reads its run of the wave's chunks, keeps what fits       8 read (the rest again from L2)
//   2. it merges units into chunks and writes those to global memory
//   3. a barrier over the CTAs that share the wave
//   4. each CTA merges the chunks of the segments it has a part in,       (L2)
//      solves them, and writes V for its own chunks                       4 written
//
// Two CTAs an SM belong to different groups, with a barrier each, that take the waves in turn: while one
// group waits and solves, the other reads. All CTAs work out the same waves from the table.
#include "segment.cuh"
// segment.cuh comes first: it supplies what the rest is written in.
#include "dispatch.cuh"
#include "kernels.h"

namespace sapag::gpu {
namespace {

struct SupersTag {};
struct TotalsTag {};
struct SlopeTag {};

// One segment of one recovery, as far as a CTA's run of chunks [begin, end) of the wave reaches into it.
struct Part {
  const Segment* segment;
  int recovery;
  int start;  // the segment's first chunk in the wave
  int from;   // chunks of the segment
  int to;
};

template <int kPieces, class Visit>
__device__ __forceinline__ void for_parts(const TierParameters<kPieces>& parameters, int64_t first,
                                          int64_t last, int begin, int end, Visit&& visit) {
  int start = 0;
  for (int item = first; item < last && start < end; ++item) {
    Part part;
    part.segment = &parameters.table.segments[item % parameters.segments];
    part.recovery = item / parameters.segments;
    part.start = start;
    const int chunks = chunks_of(*part.segment);
    part.from = begin > start ? begin - start : 0;
    part.to = end - start < chunks ? end - start : chunks;
    if (part.from < part.to) visit(part);
    start += chunks;
  }
}

template <class T, int kPieces>
__global__ void __launch_bounds__(kGridThreads, 2)
    grid_tier(SAPAG_PARAMETER(TierParameters<kPieces>) parameters) {
  const int groups = parameters.groups, warps = blockDim.x / kWarpSize;
  const int group = blockIdx.x % groups, member = blockIdx.x / groups, members = gridDim.x / groups;
  GridBarrier* const barrier = static_cast<GridBarrier*>(parameters.barriers) + group;
  const int wave_chunks = parameters.chunks;
  const int capacity = (wave_chunks + members - 1) / members * kChunkUnits;  // units of one CTA
  uint4* const held = dyn_shared<uint4>();
  double* const unit_sums = reinterpret_cast<double*>(dyn_shared<char>() + held_bytes(parameters.held));
  double* const supers = static_shared<double, kAllColumns * kGridSupers, SupersTag>();
  double* const totals = static_shared<double, kAllColumns, TotalsTag>();
  Coefficients* const slope = static_shared<Coefficients, 1, SlopeTag>();
  const Problem& problem = parameters.problem;
  const bool solver = warp() == warps - 1;
  const int columns = columns_of(problem);
  const int items = static_cast<int>(parameters.recoveries) * parameters.segments;

  int last = 0;
  for (int wave = 0; last < items; ++wave) {
    const int first = last;
    int chunks = 0;
    do {
      chunks += chunks_of(parameters.table.segments[last % parameters.segments]);
      ++last;
    } while (last < items &&
             chunks + chunks_of(parameters.table.segments[last % parameters.segments]) <= wave_chunks);
    if (wave % groups != group) continue;
    const int begin = chunks * member / members, end = chunks * (member + 1) / members;
    // Two waves' worth: while some CTAs still merge one wave, others may already write the next.
    double* const partial =
        parameters.partial + (group * 2 + wave / groups % 2) * (kAllColumns * wave_chunks);

    for_parts(parameters, first, last, begin, end, [&](const Part& part) {
      const int slot = (part.start + part.from - begin) * kChunkUnits;
      const int from = part.from * kChunkUnits, to = part.to * kChunkUnits;
      const int stop = to < part.segment->units ? to : part.segment->units;
      for (int i = from + warp(); i < stop; i += warps) {
        const Unit<T> unit = unit_of<T>(parameters.table, *part.segment, part.recovery, i);
        const int place = slot + i - from;
        const bool hold = place < parameters.held;
        const LaneSums sums =
            unit_sums_of(unit, *part.segment, part.recovery, columns, !hold, Hold{held, place, hold});
        for_columns(sums, columns,
                    [&](int column, double sum) { unit_sums[column * capacity + place] = sum; });
      }
    });
    __syncthreads();
    for_parts(parameters, first, last, begin, end, [&](const Part& part) {
      const int slot = (part.start + part.from - begin) * kChunkUnits;
      const int count = part.to - part.from;
      for (int i = threadIdx.x; i < count * columns; i += blockDim.x) {
        const int column = i / count, chunk = i % count;
        const int left = part.segment->units - (part.from + chunk) * kChunkUnits;
        partial[column * wave_chunks + part.start + part.from + chunk] =
            merge_units(unit_sums + column * capacity + slot + chunk * kChunkUnits, left);
      }
    });
    grid_sync(barrier, members);

    for_parts(parameters, first, last, begin, end, [&](const Part& part) {
      const int count = chunks_of(*part.segment);
      const int parts = (count + kSuperChunks - 1) / kSuperChunks;
      for (int task = warp(); task < parts * columns; task += warps) {
        const int column = task / parts, super = task % parts;
        // Volatile: an L1 line of the wave before last may hold the same address.
        const volatile double* const sums = partial + column * wave_chunks + part.start;
        const double sum = merge_super(super * kSuperChunks, count, [&](int chunk) { return sums[chunk]; });
        if (lane() == 0) supers[column * kGridSupers + super] = sum;
      }
      __syncthreads();
      if (solver) {
        const double whole = whole_square(problem, part.recovery);
        if (lane() < columns) {
          double total = 0;
          for (int super = 0; super < parts; ++super) {
            total += supers[lane() * kGridSupers + super];
          }
          totals[lane()] = total;
        }
        __syncwarp();
        if (lane() == 0) {
          const double shift = problem.sum_target ? shift_of<T>(*part.segment, part.recovery) : 0;
          solve(problem, part.recovery, part.segment->layer, part.segment->size, whole, totals, shift,
                part.from == 0, slope);
        }
      }
      __syncthreads();
      const Affine<T> affine(*slope, slope);
      const int slot = (part.start + part.from - begin) * kChunkUnits;
      const int from = part.from * kChunkUnits, to = part.to * kChunkUnits;
      const int stop = to < part.segment->units ? to : part.segment->units;
      for (int i = from + warp(); i < stop; i += warps) {
        const Unit<T> unit = unit_of<T>(parameters.table, *part.segment, part.recovery, i);
        if (slot + i - from < parameters.held) {
          apply_held(unit, affine, held, slot + i - from);
        } else {
          apply_unit(unit, affine);
        }
      }
    });
    __syncthreads();  // the next wave writes over what this one keeps
  }
}

__global__ void clear_barriers(GridBarrier* barriers, int count) {
  if (static_cast<int>(threadIdx.x) < count) barriers[threadIdx.x] = GridBarrier{0, 0};
}

}  // namespace

template <int kPieces>
int launch_grid_tier(Scalar scalar, const TierParameters<kPieces>& parameters, const Shape& shape,
                     void* stream) {
  static_assert(sizeof(GridBarrier) == kGridBarrierBytes);
  return dispatch(scalar, [&](auto element) {
    return launch(grid_tier<decltype(element), kPieces>,
                  {shape.grid, shape.threads, shape.shared_bytes, 1, true}, stream, parameters);
  });
}

int launch_clear_barriers(void* barriers, int count, void* stream) {
  return launch(clear_barriers, {1, 32}, stream, static_cast<GridBarrier*>(barriers), count);
}

template int launch_grid_tier(Scalar, const TierParameters<kSmallTable>&, const Shape&, void*);
template int launch_grid_tier(Scalar, const TierParameters<kLargeTable>&, const Shape&, void*);

}  // namespace sapag::gpu
