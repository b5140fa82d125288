// The optimisers' kernels for 16-byte registers: any processor.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "adam.h"
#include "lbfgs.h"
#define SAPAG_CAPABILITY baseline
#define SAPAG_BYTES 16
#include "optimizer_lanes.inl"
// In this order: the others need the lanes.
#include "adam.inl"
#include "lbfgs.inl"
