// V = alpha d + beta g + epsilon g' + gamma + delta sign(d), unit by unit.
#pragma once

#include "units.cuh"

namespace sapag::gpu {

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
__device__ __forceinline__ void apply_unit(const Unit<T>& unit, const Affine<T>& affine) {
  for_vectors<kVectors>(unit, false, [&](int k, const uint4& dummy, const uint4& target) {
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

}  // namespace sapag::gpu
