// The face of L-BFGS on the CPU: the memory of all recoveries as plain data, and one step for each of them.
#pragma once

#include <cstdint>

#include "../sapag.h"

namespace sapag::cpu {

// What a recovery does with the gradient at its present point.
enum class LbfgsAction : int8_t {
  advance,  // takes the point: the pair enters the history, the change is a new direction's
  move,     // keeps its direction and goes to another length along it
  forget,   // goes back to the last point taken, empties its history and starts along -g from there
};

// History rows are padded with zeros to `stride` elements, a multiple of kLbfgsPadding; rows of products to
// `product_stride`, a multiple of kLbfgsPadding / 2. Rows of a ring that is not full lie in order of age.
constexpr int64_t kLbfgsPadding = 16;

struct LbfgsTable {
  Scalar scalar;  // f32 or f64; the type behind every void pointer
  int64_t recoveries, size, history, stride, product_stride;
  double lr;
  void* steps;              // S: [R, history, stride]
  void* changes;            // Y: the same
  double* products;         // [R, history, product_stride]: s_i · y_j at [j, i] where i is no newer than j
  int64_t* slot;            // [R]: where the next pair goes
  int64_t* pairs;           // [R]: in the history
  int64_t* calls;           // [R]: points taken since the recovery began
  double* scale;            // [R]: gamma
  void* previous_step;      // [R, N]: the present direction at length 1
  void* previous_gradient;  // [R, N]: at the last point taken
  const void* gradient;     // [R, N]
  void* change;             // [R, N]
  // For line searches, else null: every recovery advances from length 1.
  const LbfgsAction* action;
  const double* length;       // [R]: of the present point along the direction
  const double* next_length;  // [R]: read where action is move
  double* slope;              // [R]: g · step, written unless action is move
};

void lbfgs_step(const LbfgsTable& table, const Parallel& parallel);

inline int64_t lbfgs_scratch(const LbfgsTable& table) {
  return 3 * table.stride + 6 * table.product_stride;
}

// scratch: lbfgs_scratch doubles on a 64-byte boundary. One entry for f32, one for f64.
using LbfgsKernel = void (*)(const LbfgsTable& table, int64_t recovery, double* scratch);
namespace baseline {
extern const LbfgsKernel lbfgs_kernels[2];
}
#if defined(__x86_64__)
namespace avx2 {
extern const LbfgsKernel lbfgs_kernels[2];
}
namespace avx512 {
extern const LbfgsKernel lbfgs_kernels[2];
}
#endif

}  // namespace sapag::cpu
