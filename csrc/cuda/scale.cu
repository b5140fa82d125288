// V times the gradient that flows into D, in place; in nearly every loop that is 1, and nothing is to be
// done.
//
// Stages                                                                bytes an element (float32)
//   1. each CTA reads the factor of its recovery, and is done with it
//      where that is 1
//   2. its warps take the units of all tensors in turn                    4 read, 4 written
#include "units.cuh"
// units.cuh comes first: it supplies what the rest is written in.
#include "dispatch.cuh"
#include "kernels.h"

namespace sapag::gpu {
namespace {

template <class T>
__device__ __forceinline__ uint4 scaled(const uint4& vector, Number<T> factor) {
  Number<T> values[kWidth<T>];
  unpack<T>(vector, values);
#pragma unroll
  for (int i = 0; i < kWidth<T>; ++i) values[i] *= factor;
  return pack<T>(values);
}

template <class T>
__device__ __forceinline__ void scale_unit(T* values, int64_t size, Number<T> factor) {
  if (size >= kUnit<T> && aligned(values, values)) {
    uint4 vectors[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; ++k) vectors[k] = load16_keep(values + element_of<T>(k));
#pragma unroll
    for (int k = 0; k < kVectors; ++k) store16(values + element_of<T>(k), scaled<T>(vectors[k], factor));
  } else {
    const int count = static_cast<int>(size < kUnit<T> ? size : kUnit<T>);
#pragma unroll 1
    for (int k = 0; k * kWarpSize * kWidth<T> < count; ++k) {
      const int i = element_of<T>(k);
      scatter(values, i, count, scaled<T>(gather(values, i, count), factor));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kScaleThreads, 8)
    scale_slopes(SAPAG_PARAMETER(ScaleParameters) parameters) {
  const int warps = blockDim.x / kWarpSize, parts = parameters.parts;
  const int64_t step = static_cast<int64_t>(parts) * warps;
  for (int64_t task = blockIdx.x; task < parameters.recoveries * parts; task += gridDim.x) {
    const int64_t recovery = task / parts, place = recovery * parameters.factor_stride;
    const double factor = parameters.wide ? static_cast<const double*>(parameters.factor)[place]
                                          : static_cast<const float*>(parameters.factor)[place];
    if (factor == 1) continue;
    const auto narrow = static_cast<Number<T>>(factor);
    int64_t next = task % parts * warps + warp();  // this warp's next unit, counted from the tensor's first
    for (int i = 0; i < parameters.slopes; ++i) {
      const Slope& slope = parameters.table[i];
      const int64_t units = (slope.size + kUnit<T> - 1) / kUnit<T>;
      T* const row = static_cast<T*>(slope.data) + recovery * slope.stride;
      for (; next < units; next += step) {
        scale_unit(row + next * kUnit<T>, slope.size - next * kUnit<T>, narrow);
      }
      next -= units;
    }
  }
}

}  // namespace

int launch_scale(Scalar scalar, const ScaleParameters& parameters, const Shape& shape, void* stream) {
  return dispatch(scalar, [&](auto element) {
    return launch(scale_slopes<decltype(element)>, {shape.grid, shape.threads}, stream, parameters);
  });
}

}  // namespace sapag::gpu
