// From the number type of a launch to the kernel compiled for it.
#pragma once

#include "segment.cuh"
// After primitives.cuh.
#include "launch.h"

namespace sapag::gpu {

// go(T{}) for the scalar's element type.
template <class Go>
int dispatch(Scalar scalar, Go&& go) {
  switch (scalar) {
    case Scalar::f32:
      return go(float{});
    case Scalar::f64:
      return go(double{});
    case Scalar::bf16:
      return go(BFloat16{});
    case Scalar::f16:
      return go(Float16{});
  }
  return 1;  // cudaErrorInvalidValue
}

}  // namespace sapag::gpu
