// V = alpha d + beta g + epsilon g' + gamma + delta sign(d), unit by unit.
#pragma once

#include "units.cuh"
// After primitives.cuh.
#include "../kinds.h"

namespace sapag::gpu {

template <class T>
struct Affine {
  static constexpr bool kNarrow = sizeof(Number<T>) == sizeof(float);
  Number<T> alpha, beta, epsilon, gamma, delta;
  bool signs, wide;
  const Coefficients* exact;

  // at: where they stay while V is written.
  __device__ __forceinline__ Affine(const Coefficients& c, const Coefficients* at)
      : alpha(static_cast<Number<T>>(c.alpha)),
        beta(static_cast<Number<T>>(c.beta)),
        epsilon(static_cast<Number<T>>(c.epsilon)),
        gamma(static_cast<Number<T>>(c.gamma)),
        delta(static_cast<Number<T>>(c.delta)),
        signs(c.gamma != 0 || c.delta != 0),
        wide(kNarrow && !fits_single(c)),
        exact(at) {}

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

// In float64, of coefficients that float32 does not hold: V may lie in its range all the same. A call, so
// that the sweeps around it need not keep registers for it.
template <class T>
__device__ __noinline__ void apply_wide(const T* dummy, const T* target, T* out, int size,
                                        const Coefficients* c) {
  const double alpha = c->alpha, beta = c->beta, epsilon = c->epsilon, gamma = c->gamma, delta = c->delta;
  for (int i = lane(); i < size; i += kWarpSize) {
    const double a = to_number(dummy[i]), g = to_number(target[i]), d = a - g;
    const double v = beta * g + epsilon * a + alpha * d + (gamma + delta * ((d > 0) - (d < 0)));
    from_number(static_cast<Number<T>>(v), out + i);
  }
}

template <class T>
__device__ __forceinline__ void apply_unit(const Unit<T>& unit, const Affine<T>& affine) {
  if (Affine<T>::kNarrow && affine.wide) {
    return apply_wide(unit.dummy, unit.target, unit.out, unit.size, affine.exact);
  }
  for_vectors<kVectors>(unit, false, [&](int k, const uint4& dummy, const uint4& target) {
    store_vector(unit, k, affine(dummy, target));
  });
}

template <class T>
__device__ __forceinline__ void apply_held(const Unit<T>& unit, const Affine<T>& affine, uint4* held,
                                           int slot) {
  if (Affine<T>::kNarrow && affine.wide) {
    return apply_wide(unit.dummy, unit.target, unit.out, unit.size, affine.exact);
  }
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
