// The optimisers' kernels for AVX-512.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "adam.h"
#include "lbfgs.h"
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c,prefer-vector-width=512")
#define SAPAG_CAPABILITY avx512
#define SAPAG_BYTES 64
#include "optimizer_lanes.inl"
// In this order: the others need the lanes.
#include "adam.inl"
#include "lbfgs.inl"
#endif
