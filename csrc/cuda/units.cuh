// Where a unit's elements are in the pieces of its segment, and how a warp reads, keeps and writes them.
#pragma once

#include "numbers.cuh"

namespace sapag::gpu {

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

__device__ __forceinline__ bool aligned(const void* a, const void* b) {
  return ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) & 15) == 0;
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

// use(vector, g', g) for the unit's vectors, so many of each operand read ahead. again: this kernel will read
// it another time.
template <int kAhead, class T, class Use>
__device__ __forceinline__ void for_vectors(const Unit<T>& unit, bool again, Use&& use) {
  if (unit.size == kUnit<T> && aligned(unit.dummy, unit.target)) {
#pragma unroll 1
    for (int first = 0; first < kVectors; first += kAhead) {
      uint4 dummy[kAhead], target[kAhead];
      if (again) {
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          dummy[k] = load16_keep(unit.dummy + element_of<T>(first + k));
          target[k] = load16_keep(unit.target + element_of<T>(first + k));
        }
      } else {
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          dummy[k] = load16(unit.dummy + element_of<T>(first + k));
          target[k] = load16(unit.target + element_of<T>(first + k));
        }
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) use(first + k, dummy[k], target[k]);
    }
  } else {
#pragma unroll 1
    for (int k = 0; k * kWarpSize * kWidth<T> < unit.size; ++k) {
      const int i = element_of<T>(k);
      use(k, gather(unit.dummy, i, unit.size), gather(unit.target, i, unit.size));
    }
  }
}

template <class T>
__device__ __forceinline__ void store_vector(const Unit<T>& unit, int vector, const uint4& value) {
  const int i = element_of<T>(vector);
  if (i + kWidth<T> <= unit.size && aligned(unit.out, unit.out)) {
    store16(unit.out + i, value);
  } else {
    scatter(unit.out, i, unit.size, value);
  }
}

// Where a CTA keeps the units that it reads only once: both operands, a vector for each lane.
__device__ __forceinline__ uint4* held_vector(uint4* held, int slot, int vector) {
  return held + (slot * 2 * kVectors + vector) * kWarpSize + lane();
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
