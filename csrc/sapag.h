// The plain-data face of the kernels: what they read, what they write, and how they are launched.
// No torch here: bindings.cpp turns tensors into these tables.
#pragma once

#include <cstdint>
#include <vector>

#if defined(__CUDACC__)
#define SAPAG_HD __host__ __device__
#else
#define SAPAG_HD
#endif

namespace sapag {

enum class Scalar { f32, f64, bf16, f16 };

inline int64_t bytes_of(Scalar scalar) {
  return scalar == Scalar::f64 ? 8 : scalar == Scalar::f32 ? 4 : 2;
}

// Sums over one layer of one recovery, in the order of sums.py's DIFFERENCE_COLUMNS; d = g' - g.
struct DifferenceSums {
  double sum = 0, square = 0, cross = 0, dummy_square = 0, inner = 0, absolute = 0;
};
// In the order of TARGET_COLUMNS; deviation is n times the biased variance.
struct TargetSums {
  double sum = 0, square = 0, deviation = 0;
};
// V = alpha d + beta g + epsilon g' + gamma + delta sign(d).
struct Coefficients {
  double alpha = 0, beta = 0, epsilon = 0, gamma = 0, delta = 0;
};

// One gradient tensor of all recoveries. Strides are in elements between recoveries (0: shared by all).
struct Entry {
  const void* dummy;
  const void* target;
  void* out;
  int64_t dummy_stride;
  int64_t target_stride;
  int64_t out_stride;
  int64_t size;  // elements of one recovery
  int64_t layer;
};

struct Table {
  std::vector<Entry> entries;
  int64_t recoveries = 1;
  int64_t target_recoveries = 1;  // 1 where one target is shared
  int64_t layers = 0;
  Scalar scalar = Scalar::f32;
  bool with_gradient = false;  // V is asked for; pointers to tensors without elements are null in any case
};

// V in one gradient tensor of all recoveries; stride in elements between recoveries.
struct Slope {
  void* data;
  int64_t stride;
  int64_t size;  // elements of one recovery
};

struct SlopeTable {
  std::vector<Slope> slopes;
  int64_t recoveries = 1;
  Scalar scalar = Scalar::f32;
  const void* factor = nullptr;  // float, or double if wide: of each recovery, or of all (stride 0)
  int64_t factor_stride = 0;
  bool wide = false;
};

// The distances that the compiled code computes by itself; numbers as in distances.py.
enum class Kind : int64_t {
  sapag = 0,
  sapag_mean,
  sapag_sum,
  sapag_global,
  l2,
  l2_normalized,
  cosine,
  l1,
  tag,
  count
};

struct DistanceOptions {
  Kind kind = Kind::sapag;
  double bandwidth = 1;
  double l1_weight = 0;
  const double* weights = nullptr;  // [L], or [R, L] with weights_stride = L
  int64_t weights_stride = 0;
  const double* variance = nullptr;  // replaces the target's own, same shapes
  int64_t variance_stride = 0;
};

// Runs body(context, i) for i in [0, count), in parallel where the caller has threads.
struct Parallel {
  void (*run)(int64_t count, void (*body)(void*, int64_t), void* context);
  int threads;
};

namespace cpu {

const char* capability();

// Each writes rows of plain doubles: difference [R, L], target [R or 1, L].
void target_sums(const Table& table, TargetSums* target, const Parallel& parallel);
void difference_sums(const Table& table, DifferenceSums* difference, const Parallel& parallel);
void apply(const Table& table, const Coefficients* coefficients, const Parallel& parallel);

// value [R]; target is read if target_known, else written. V goes to the entries' out if the table asks for
// it.
void distance(const Table& table, const DistanceOptions& options, double* value, TargetSums* target,
              bool target_known, const Parallel& parallel);

}  // namespace cpu
}  // namespace sapag
