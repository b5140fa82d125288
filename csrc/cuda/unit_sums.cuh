// A unit's sums in float64, where products of float32 are exact: each lane's own, then over lanes.
#pragma once

#include "units.cuh"
// After primitives.cuh.
#include <cmath>

namespace sapag::gpu {

// One step of a sum over lanes: those with the bit keep `high` and hand out `low`, the others the reverse.
__device__ __forceinline__ double fold(double low, double high, int bit) {
  const bool upper = (lane() & bit) != 0;
  const double keep = upper ? high : low, give = upper ? low : high;
  return keep + __shfl_xor_sync(kFullWarp, give, bit);
}
__device__ __forceinline__ double butterfly(double value) {
#pragma unroll
  for (int bit = 16; bit > 0; bit /= 2) value += __shfl_xor_sync(kFullWarp, value, bit);
  return value;
}

// A unit's sums, spread over lanes: lanes 0, 8, 16 and 24 hold four columns, lanes 0 and 16 two more; of a
// target, the same lanes as of the first four.
struct LaneSums {
  double main = 0, extra = 0, target = 0;
  __device__ __forceinline__ void add(const LaneSums& other) {
    main += other.main;
    extra += other.extra;
    target += other.target;
  }
};
__device__ __forceinline__ double fold_four(double a, double b, double c, double d) {
  double sum = fold(fold(a, b, 16), fold(c, d, 16), 8);
#pragma unroll
  for (int bit = 4; bit > 0; bit /= 2) sum += __shfl_xor_sync(kFullWarp, sum, bit);
  return sum;
}
__device__ __forceinline__ int column_of_lane() {
  return (lane() / 16) + 2 * (lane() / 8 % 2);
}

// put(column, sum) by the lanes that hold one; columns is kSum, kColumns or kAllColumns.
template <class Put>
__device__ __forceinline__ void for_columns(const LaneSums& sums, int columns, Put&& put) {
  if (lane() % 8 == 0) put(column_of_lane(), sums.main);
  if (columns > kSum && lane() % 16 == 0) put(kSum + lane() / 16, sums.extra);
  if (columns > kColumns && lane() % 8 == 0 && column_of_lane() < kShift) {
    put(kColumns + column_of_lane(), sums.target);
  }
}

// A lane's sums of a target about a shift, so that the variance does not cancel: the shift is one of the
// segment's own elements, which bounds the loss by a factor of n however far off it lies, and leaves a
// constant target exactly zero.
template <class T>
struct TargetLane {
  double shift, shifted = 0, shifted_square = 0, square = 0;

  __device__ __forceinline__ explicit TargetLane(double about) : shift(about) {}
  // Of a vector that begins at element i of a unit.
  __device__ __forceinline__ void add(const uint4& target, int i, int size) {
    Number<T> gs[kWidth<T>];
    unpack<T>(target, gs);
#pragma unroll
    for (int k = 0; k < kWidth<T>; ++k) {
      const double g = gs[k], r = i + k < size ? g - shift : 0;
      shifted += r;
      shifted_square += r * r;
      square += g * g;
    }
  }
  __device__ __forceinline__ double folded() const { return fold_four(shifted, shifted_square, square, 0); }
};

// That shift.
template <class T>
__device__ __forceinline__ double shift_of(const Segment& segment, int64_t recovery) {
  return to_number(static_cast<const T*>(segment.shift)[recovery * segment.shift_stride]);
}

template <class T, bool kExtra, bool kTarget, int kAhead, class Keep>
__device__ __forceinline__ LaneSums sums_of_unit(const Unit<T>& unit, double shift, bool again, Keep&& keep) {
  TargetLane<T> lane_of_target(shift);
  double square = 0, cross = 0, dummy_square = 0, inner = 0, sum = 0, absolute = 0;
  for_vectors<kAhead>(unit, again, [&](int k, const uint4& dummy, const uint4& target) {
    keep(k, dummy, target);
    Number<T> as[kWidth<T>], gs[kWidth<T>];
    unpack<T>(dummy, as);
    unpack<T>(target, gs);
#pragma unroll
    for (int i = 0; i < kWidth<T>; ++i) {
      const double a = as[i], g = gs[i], d = a - g;
      square += d * d;
      cross += d * g;
      dummy_square += a * a;
      inner += a * g;
      if constexpr (kExtra) {
        sum += d;
        absolute += std::fabs(d);
      }
    }
    if constexpr (kTarget) lane_of_target.add(target, element_of<T>(k), unit.size);
  });
  LaneSums sums;
  sums.main = fold_four(square, cross, dummy_square, inner);
  if constexpr (kExtra) {
    sums.extra = fold(sum, absolute, 16);
#pragma unroll
    for (int bit = 8; bit > 0; bit /= 2) sums.extra += __shfl_xor_sync(kFullWarp, sums.extra, bit);
  }
  if constexpr (kTarget) sums.target = lane_of_target.folded();
  return sums;
}

struct KeepNothing {
  __device__ __forceinline__ void operator()(int, const uint4&, const uint4&) const {}
};

// The columns of a unit of the segment, for a tier; keep(vector, g', g) for each vector on the way.
template <class T, class Keep>
__device__ __forceinline__ LaneSums unit_sums_of(const Unit<T>& unit, const Segment& segment,
                                                 int64_t recovery, int columns, bool again, Keep&& keep) {
  if (columns > kColumns) {
    // Nothing is read ahead: nine sums take the registers for it.
    return sums_of_unit<T, true, true, 1>(unit, shift_of<T>(segment, recovery), again, keep);
  }
  return columns > kSum ? sums_of_unit<T, true, false, kVectors>(unit, 0, again, keep)
                        : sums_of_unit<T, false, false, kVectors>(unit, 0, again, keep);
}

// Those of the target alone.
template <class T>
__device__ __forceinline__ LaneSums target_sums(const Unit<T>& unit, double shift) {
  TargetLane<T> mine(shift);
  if (unit.size == kUnit<T> && aligned(unit.target, unit.target)) {
    uint4 target[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; ++k) target[k] = load16(unit.target + element_of<T>(k));
#pragma unroll
    for (int k = 0; k < kVectors; ++k) mine.add(target[k], element_of<T>(k), unit.size);
  } else {
#pragma unroll 1
    for (int k = 0; k * kWarpSize * kWidth<T> < unit.size; ++k) {
      mine.add(gather(unit.target, element_of<T>(k), unit.size), element_of<T>(k), unit.size);
    }
  }
  LaneSums sums;
  sums.target = mine.folded();
  return sums;
}

}  // namespace sapag::gpu
