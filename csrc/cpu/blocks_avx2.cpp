// The vector kernels for AVX2 with FMA and F16C.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "blocks.h"
#pragma GCC target("avx2,fma,f16c")
#define SAPAG_CAPABILITY avx2
#define SAPAG_BYTES 32
#include "blocks.inl"
#endif
