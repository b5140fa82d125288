// What all tiers are made of: reading a segment unit by unit, its sums in a fixed order, the coefficients
// that follow from them, and V. table.h says what units, chunks and groups are.
//
//   1. unit_of     finds a unit's elements in the pieces of its segment
//   2. for_vectors reads a unit: 8 loads of 16 bytes in flight for each lane; where a pointer is not a
//   multiple of
//                  16, and at the end of a tensor, the same lane reads the same elements one by one
//   3. difference_sums, target_sums: a lane's sums in float64, where products of float32 are exact; then
//   lanes
//   4. merge_*     sums of chunks to those of the segment
//   5. solve       sums to the share of D and the coefficients of V
//   6. apply_unit  V = alpha d + beta g + epsilon g' + gamma + delta sign(d)
#pragma once

#include "primitives.cuh"
// The order matters: primitives.cuh supplies what the rest is written in.
#include <cmath>
#include <cstring>

#include "../kinds.h"
#include "table.h"

namespace sapag::gpu {

// ---- numbers
// --------------------------------------------------------------------------------------------------

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_number(float value) {
  return value;
}
__device__ __forceinline__ double to_number(double value) {
  return value;
}
__device__ __forceinline__ float to_number(BFloat16 value) {
  return bf16_to_float(value.bits);
}
__device__ __forceinline__ float to_number(Float16 value) {
  return half_to_float(value.bits);
}
__device__ __forceinline__ void from_number(float value, float* out) {
  *out = value;
}
__device__ __forceinline__ void from_number(double value, double* out) {
  *out = value;
}
__device__ __forceinline__ void from_number(float value, BFloat16* out) {
  out->bits = float_to_bf16(value);
}
__device__ __forceinline__ void from_number(float value, Float16* out) {
  out->bits = float_to_half(value);
}

// What V is computed in.
template <class T>
using Number = decltype(to_number(T{}));
template <class T>
constexpr int kWidth = 16 / static_cast<int>(sizeof(T));
template <class T>
constexpr int kUnit = kUnitBytes / static_cast<int>(sizeof(T));

// ---- 1. units
// -------------------------------------------------------------------------------------------------

template <class T>
struct Unit {
  const T* dummy;
  const T* target;
  T* out;
  int size;  // elements, at most kUnit<T>
};

__device__ __forceinline__ int chunks_of(const Segment& segment) {
  return (segment.units + kChunkUnits - 1) / kChunkUnits;
}

// The unit of a segment, counted from the launch's part of it. Between pieces that two launches share there
// may be units without elements.
template <class T, int kPieces>
__device__ __forceinline__ Unit<T> unit_of(const LaunchTable<kPieces>& table, const Segment& segment,
                                           int64_t recovery, int index) {
  const int unit = segment.first_unit + index;
  int low = segment.first_piece, high = segment.first_piece + segment.pieces - 1;
  while (low < high) {  // the last piece that starts at or before the unit
    const int middle = (low + high + 1) / 2;
    if (table.pieces[middle].first_unit <= unit) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const Piece& piece = table.pieces[low];
  const int64_t from = static_cast<int64_t>(unit - piece.first_unit) * kUnit<T>;
  const int64_t rest = piece.size - from;
  Unit<T> found;
  found.dummy = static_cast<const T*>(piece.dummy) + (recovery * piece.dummy_stride + from);
  found.target = static_cast<const T*>(piece.target) + (recovery * piece.target_stride + from);
  found.out = static_cast<T*>(piece.out) + (recovery * piece.out_stride + from);
  found.size = static_cast<int>(rest < kUnit<T> ? rest : kUnit<T>);
  return found;
}

// ---- 2. loads and stores
// --------------------------------------------------------------------------------------

__device__ __forceinline__ bool aligned(const void* a, const void* b) {
  return ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) & 15) == 0;
}

template <class T>
__device__ __forceinline__ void unpack(const uint4& vector, Number<T> (&values)[kWidth<T>]) {
  T raw[kWidth<T>];
  std::memcpy(raw, &vector, 16);
#pragma unroll
  for (int i = 0; i < kWidth<T>; ++i) values[i] = to_number(raw[i]);
}
template <class T>
__device__ __forceinline__ uint4 pack(const Number<T> (&values)[kWidth<T>]) {
  T raw[kWidth<T>];
#pragma unroll
  for (int i = 0; i < kWidth<T>; ++i) from_number(values[i], &raw[i]);
  uint4 vector;
  std::memcpy(&vector, raw, 16);
  return vector;
}

// Elements [i, i + width) below size, the rest zero, which adds nothing to any sum.
template <class T>
__device__ __forceinline__ uint4 gather(const T* p, int i, int size) {
  T raw[kWidth<T>] = {};
#pragma unroll
  for (int k = 0; k < kWidth<T>; ++k) {
    if (i + k < size) raw[k] = p[i + k];
  }
  uint4 vector;
  std::memcpy(&vector, raw, 16);
  return vector;
}
template <class T>
__device__ __forceinline__ void scatter(T* p, int i, int size, const uint4& vector) {
  T raw[kWidth<T>];
  std::memcpy(raw, &vector, 16);
#pragma unroll
  for (int k = 0; k < kWidth<T>; ++k) {
    if (i + k < size) p[i + k] = raw[k];
  }
}

// The element at which a lane's vector begins.
template <class T>
__device__ __forceinline__ int element_of(int vector) {
  return (vector * kWarpSize + lane()) * kWidth<T>;
}

// use(vector, g', g) for the unit's vectors. again: this kernel will read it another time.
template <class T, class Use>
__device__ __forceinline__ void for_vectors(const Unit<T>& unit, bool again, Use&& use) {
  if (unit.size == kUnit<T> && aligned(unit.dummy, unit.target)) {
    uint4 dummy[kVectors], target[kVectors];
    if (again) {
#pragma unroll
      for (int k = 0; k < kVectors; ++k) {
        dummy[k] = load16_keep(unit.dummy + element_of<T>(k));
        target[k] = load16_keep(unit.target + element_of<T>(k));
      }
    } else {
#pragma unroll
      for (int k = 0; k < kVectors; ++k) {
        dummy[k] = load16(unit.dummy + element_of<T>(k));
        target[k] = load16(unit.target + element_of<T>(k));
      }
    }
#pragma unroll
    for (int k = 0; k < kVectors; ++k) use(k, dummy[k], target[k]);
  } else {
#pragma unroll 1
    for (int k = 0; k * kWarpSize * kWidth<T> < unit.size; ++k) {
      const int i = element_of<T>(k);
      use(k, gather(unit.dummy, i, unit.size), gather(unit.target, i, unit.size));
    }
  }
}

// Where a CTA keeps the units that it reads only once: both operands, a vector for each lane.
__device__ __forceinline__ uint4* held_vector(uint4* held, int slot, int vector) {
  return held + (slot * 2 * kVectors + vector) * kWarpSize + lane();
}

// ---- 3. sums of a unit
// ----------------------------------------------------------------------------------------

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

// A unit's sums, spread over lanes: lanes 0, 8, 16 and 24 hold four columns, lanes 0 and 16 two more.
struct LaneSums {
  double main = 0, extra = 0;
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

// put(column, sum) by the lanes that hold one.
template <class Put>
__device__ __forceinline__ void for_columns(const LaneSums& sums, bool extra, Put&& put) {
  if (lane() % 8 == 0) put(column_of_lane(), sums.main);
  if (extra && lane() % 16 == 0) put(kSum + lane() / 16, sums.extra);
}

template <class T, bool kExtra, class Keep>
__device__ __forceinline__ LaneSums sums_of_unit(const Unit<T>& unit, bool again, Keep&& keep) {
  double square = 0, cross = 0, dummy_square = 0, inner = 0, sum = 0, absolute = 0;
  for_vectors(unit, again, [&](int k, const uint4& dummy, const uint4& target) {
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
  });
  LaneSums sums;
  sums.main = fold_four(square, cross, dummy_square, inner);
  if constexpr (kExtra) {
    sums.extra = fold(sum, absolute, 16);
#pragma unroll
    for (int bit = 8; bit > 0; bit /= 2) sums.extra += __shfl_xor_sync(kFullWarp, sums.extra, bit);
  }
  return sums;
}

template <class T, class Keep>
__device__ __forceinline__ LaneSums difference_sums(const Unit<T>& unit, bool extra, bool again,
                                                    Keep&& keep) {
  return extra ? sums_of_unit<T, true>(unit, again, keep) : sums_of_unit<T, false>(unit, again, keep);
}

// About a shift, so that the variance does not cancel: the shift is one of the segment's own elements, which
// bounds the loss by a factor of n however far off it lies, and leaves a constant target exactly zero.
template <class T>
__device__ __forceinline__ LaneSums target_sums(const Unit<T>& unit, double shift) {
  double shifted = 0, shifted_square = 0, square = 0;
  const auto add = [&](const uint4& target, int i) {
    Number<T> gs[kWidth<T>];
    unpack<T>(target, gs);
#pragma unroll
    for (int k = 0; k < kWidth<T>; ++k) {
      const double g = gs[k], r = i + k < unit.size ? g - shift : 0;
      shifted += r;
      shifted_square += r * r;
      square += g * g;
    }
  };
  if (unit.size == kUnit<T> && aligned(unit.target, unit.target)) {
    uint4 target[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; ++k) target[k] = load16(unit.target + element_of<T>(k));
#pragma unroll
    for (int k = 0; k < kVectors; ++k) add(target[k], element_of<T>(k));
  } else {
#pragma unroll 1
    for (int k = 0; k * kWarpSize * kWidth<T> < unit.size; ++k) {
      add(gather(unit.target, element_of<T>(k), unit.size), element_of<T>(k));
    }
  }
  LaneSums sums;
  sums.main = fold_four(shifted, shifted_square, square, 0);
  return sums;
}

// ---- 4. merges
// ------------------------------------------------------------------------------------------------

// The sum of a super's chunks from `base`, in every lane of a warp; at(chunk) gives one chunk's sum.
template <class At>
__device__ __forceinline__ double merge_super(int base, int chunks, At&& at) {
  constexpr int kAhead = 8;  // loads in flight
  double mine = 0;
#pragma unroll 1
  for (int group = 0; group < kWarpSize && base + group * kGroupChunks < chunks; group += kAhead) {
    double values[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int chunk = base + (group + k) * kGroupChunks + lane();
      values[k] = chunk < chunks ? at(chunk) : 0.0;
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const double sum = butterfly(values[k]);
      if (lane() == group + k) mine = sum;
    }
  }
  return butterfly(mine);
}

// The sum of a chunk from its units' sums.
__device__ __forceinline__ double merge_units(const double* units, int count) {
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kChunkUnits; ++i) {
    if (i < count) sum += units[i];
  }
  return sum;
}

// ---- 5. the mathematics of a segment
// --------------------------------------------------------------------------

// Σ g² over all layers, in every lane of a warp: what a layer's share is measured against.
__device__ __forceinline__ double whole_square(const Problem& problem, int64_t recovery) {
  double sum = 0;
  if (needs_norm(problem.options.kind)) {
    const TargetSums* row = problem.target + recovery * problem.target_stride;
    for (int64_t layer = lane(); layer < problem.layers; layer += kWarpSize) sum += row[layer].square;
    sum = butterfly(sum);
  }
  return sum;
}

// One thread: D's share, and the coefficients of V in *slope. A call, so that the sweeps around it need not
// keep registers for exponentials and divisions in float64.
__device__ __noinline__ inline double solve(const Problem& problem, int64_t recovery, int layer, double size,
                                            double whole, const double* totals, Coefficients* slope) {
  const DistanceOptions& options = problem.options;
  DifferenceSums sums;
  sums.square = totals[kSquare];
  sums.cross = totals[kCross];
  sums.dummy_square = totals[kDummySquare];
  sums.inner = totals[kInner];
  sums.sum = totals[kSum];
  sums.absolute = totals[kAbsolute];
  TargetSums target = problem.target[recovery * problem.target_stride + layer];
  if (options.variance) {
    target.deviation = size * options.variance[recovery * options.variance_stride + layer];
  }
  const double weight = options.weights ? options.weights[recovery * options.weights_stride + layer] : 1;
  const bool degenerate = is_degenerate(options.kind, target, size, whole);
  return segment_value(options, sums, target, size, weight, degenerate, slope);
}

// ---- 6. V
// -----------------------------------------------------------------------------------------------------

template <class T>
struct Affine {
  Number<T> alpha, beta, epsilon, gamma, delta;
  bool signs;

  __device__ __forceinline__ explicit Affine(const Coefficients& c)
      : alpha(static_cast<Number<T>>(c.alpha)),
        beta(static_cast<Number<T>>(c.beta)),
        epsilon(static_cast<Number<T>>(c.epsilon)),
        gamma(static_cast<Number<T>>(c.gamma)),
        delta(static_cast<Number<T>>(c.delta)),
        signs(c.gamma != 0 || c.delta != 0) {}

  __device__ __forceinline__ uint4 operator()(const uint4& dummy, const uint4& target) const {
    Number<T> as[kWidth<T>], gs[kWidth<T>], vs[kWidth<T>];
    unpack<T>(dummy, as);
    unpack<T>(target, gs);
#pragma unroll
    for (int i = 0; i < kWidth<T>; ++i) {
      const Number<T> d = as[i] - gs[i];
      vs[i] = beta * gs[i] + epsilon * as[i] + alpha * d;
      if (signs) vs[i] += gamma + delta * static_cast<Number<T>>((d > 0) - (d < 0));
    }
    return pack<T>(vs);
  }
};

template <class T>
__device__ __forceinline__ void store_vector(const Unit<T>& unit, int vector, const uint4& value) {
  const int i = element_of<T>(vector);
  if (i + kWidth<T> <= unit.size && aligned(unit.out, unit.out)) {
    store16(unit.out + i, value);
  } else {
    scatter(unit.out, i, unit.size, value);
  }
}

template <class T>
__device__ __forceinline__ void apply_unit(const Unit<T>& unit, const Affine<T>& affine) {
  for_vectors(unit, false, [&](int k, const uint4& dummy, const uint4& target) {
    store_vector(unit, k, affine(dummy, target));
  });
}

template <class T>
__device__ __forceinline__ void apply_held(const Unit<T>& unit, const Affine<T>& affine, uint4* held,
                                           int slot) {
  if (unit.size == kUnit<T> && aligned(unit.out, unit.out)) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      store16(unit.out + element_of<T>(k),
              affine(*held_vector(held, slot, k), *held_vector(held, slot, kVectors + k)));
    }
  } else {
#pragma unroll 1
    for (int k = 0; k * kWarpSize * kWidth<T> < unit.size; ++k) {
      scatter(unit.out, element_of<T>(k), unit.size,
              affine(*held_vector(held, slot, k), *held_vector(held, slot, kVectors + k)));
    }
  }
}

// What a thread that keeps units does in the first sweep.
struct Hold {
  uint4* held;
  int slot;
  bool wanted;
  __device__ __forceinline__ void operator()(int k, const uint4& dummy, const uint4& target) const {
    if (wanted) {
      *held_vector(held, slot, k) = dummy;
      *held_vector(held, slot, kVectors + k) = target;
    }
  }
};

}  // namespace sapag::gpu
