// The optimisers' kernels for AVX2 with FMA.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "adam.h"
#include "lbfgs.h"
#pragma GCC target("avx2,fma,f16c")
#define SAPAG_CAPABILITY avx2
#define SAPAG_BYTES 32
#include "optimizer_lanes.inl"
// In this order: the others need the lanes.
#include "adam.inl"
#include "lbfgs.inl"
#endif
