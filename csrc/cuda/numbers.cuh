// The element types of gradients, and vectors of 16 bytes of them.
#pragma once

#include "primitives.cuh"
// The order matters: primitives.cuh supplies what the rest is written in.
#include <cstring>

#include "table.h"

namespace sapag::gpu {

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

}  // namespace sapag::gpu
