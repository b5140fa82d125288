// Kernels each with one fault that the emulation has to report: run as CASE. `none` has none; `halves` prints
// the worst difference between the conversions of 16-bit floats and the compiler's own; `switches` their
// time.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "launch.h"

using namespace sapag::gpu;

namespace {

struct Values;
struct Inputs;
enum Fault {
  none,
  deadlock_spin,
  deadlock_mixed,
  divergence_sites,
  divergence_ended,
  overrun,
  overrun_dynamic,
  shuffle_not_in_mask,
  shuffle_missing_lane,
  shuffle_other_mask,
  shuffle_outside_mask,
  shuffle_other_kind,
  shuffle_ended_lane,
  early_map,
  late_map,
  no_shared_memory,
  misaligned_load,
  stale_shared,
  count
};
constexpr const char* kNames[] = {"none",
                                  "deadlock_spin",
                                  "deadlock_mixed",
                                  "divergence_sites",
                                  "divergence_ended",
                                  "overrun",
                                  "overrun_dynamic",
                                  "shuffle_not_in_mask",
                                  "shuffle_missing_lane",
                                  "shuffle_other_mask",
                                  "shuffle_outside_mask",
                                  "shuffle_other_kind",
                                  "shuffle_ended_lane",
                                  "early_map",
                                  "late_map",
                                  "no_shared_memory",
                                  "misaligned_load",
                                  "stale_shared"};
constexpr int kCount = 40;  // threads: the last warp is not whole

__global__ void faulty(Fault fault, const float* in, float* out, GridBarrier* barrier) {
  const int thread = static_cast<int>(threadIdx.x);
  float* values = static_shared<float, kCount, Values>();
  float* inputs = dyn_shared<float>();
  if (fault == early_map) values = cluster_map(values, 1 - cluster_rank());
  if (fault != stale_shared || thread != 3) values[fault == overrun ? thread + 1 : thread] = in[thread];
  inputs[fault == overrun_dynamic ? thread + 1 : thread] = in[thread];
  if (fault == no_shared_memory) static_shared<float, 20000, Inputs>()[0] = 0;
  if (fault == divergence_ended && thread == 7) return;
  if (fault == divergence_sites && thread == 9) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  if (fault == deadlock_spin && blockIdx.x == 1) {
    while (load_acquire(&barrier->generation) == 0) spin_pause();
  }
  if (fault == deadlock_mixed && thread >= 32) cluster_sync();
  __syncthreads();
  float value = values[kCount - 1 - thread];
  if (fault == misaligned_load) value += __uint_as_float(load16(in + 1).x);
  const unsigned mask = thread < 32 ? kFullWarp : 0xffu;
  if (fault == shuffle_not_in_mask && thread == 5) value += __shfl_xor_sync(0xffffffdfu, value, 1);
  if (fault == shuffle_ended_lane && thread == 5) return;
  if (fault == shuffle_missing_lane && thread >= 32) value += __shfl_xor_sync(kFullWarp, value, 1);
  if (fault == shuffle_outside_mask && thread >= 32) value += __shfl_down_sync(mask, value, 4);
  if (fault == shuffle_other_kind && thread == 2) value += __shfl_down_sync(mask, value, 1);
  value += __shfl_xor_sync(fault == shuffle_other_mask && thread == 2 ? 0xfu : mask, value, 1);
  __syncwarp(mask);
  cluster_sync();
  if (fault == late_map && cluster_rank() == 0) return;
  for (int wait = 0; fault == late_map && wait < 4; ++wait) spin_pause();
  const int other = 1 - cluster_rank();
  value += fault == early_map ? 0 : cluster_map(inputs, other)[thread];
  if (fault != late_map) cluster_sync();
  out[blockIdx.x * kCount + threadIdx.x] = value;
}

int halves() {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half), wide = bf16_to_float(half);
    _Float16 own;
    std::memcpy(&own, &half, sizeof own);
    const auto expected = static_cast<float>(own);
    if (std::isnan(expected) != std::isnan(value)) return 1;
    if (std::isnan(value) && float_to_half(value) != 0x7fff) return 1;
    if (std::isnan(wide) && float_to_bf16(wide) != 0x7fff) return 1;
    if (!std::isnan(value) && (value != expected || float_to_half(value) != half)) return 1;
    if (!std::isnan(wide) && float_to_bf16(wide) != half) return 1;
    // Between two neighbours: the middle goes to the even one, and a little more or less decides.
    if ((bits & 0x7fff) >= 0x7bff) continue;
    const float above = half_to_float(static_cast<uint16_t>(bits + 1)), middle = 0.5f * (value + above);
    for (const float x : {middle, std::nextafter(middle, value), std::nextafter(middle, above)}) {
      const auto rounded = static_cast<_Float16>(x);
      uint16_t wanted;
      std::memcpy(&wanted, &rounded, sizeof wanted);
      if (float_to_half(x) != wanted) return 1;
    }
    const float wide_above = bf16_to_float(static_cast<uint16_t>(bits + 1));
    if ((bits & 0x7fff) >= 0x7f00) continue;
    const float wide_middle = 0.5f * wide + 0.5f * wide_above;
    if (float_to_bf16(wide_middle) != (bits & 1 ? bits + 1 : bits)) return 1;
    if (float_to_bf16(std::nextafter(wide_middle, wide)) != bits) return 1;
  }
  if (float_to_half(65519.0f) != 0x7bff || float_to_half(65520.0f) != 0x7c00) return 1;
  if (float_to_half(-1e30f) != 0xfc00 || float_to_bf16(3.4e38f) != 0x7f80) return 1;
  std::printf("ok\n");
  return 0;
}

__global__ void meet(int times) {
  for (int i = 0; i < times; ++i) __syncthreads();
}

int switches() {
  constexpr int kTimes = 20000, kThreads = 64;
  const auto start = std::chrono::steady_clock::now();
  if (launch(meet, LaunchShape{1, kThreads, 0, 1, false}, nullptr, kTimes)) return 1;
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
  std::printf("ok %.1f\n", taken.count() / (kTimes * kThreads));
  return 0;
}

}  // namespace

int main(int arguments, char** words) {
  const std::string wanted = arguments > 1 ? words[1] : "none";
  if (wanted == "halves") return halves();
  if (wanted == "switches") return switches();
  for (int fault = 0; fault < count; ++fault) {
    if (wanted != kNames[fault]) continue;
    float in[kCount + 4] = {}, out[2 * kCount];
    alignas(16) float aligned[kCount + 4] = {};
    GridBarrier barrier{0, 0};
    for (int i = 0; i < kCount; ++i) in[i] = aligned[i] = static_cast<float>(i);
    const LaunchShape shape{2, kCount, kCount * static_cast<int>(sizeof(float)), 2, false};
    if (launch(faulty, shape, nullptr, static_cast<Fault>(fault), fault == misaligned_load ? aligned : in,
               out, &barrier)) {
      return 1;
    }
    double sum = 0;
    for (const float x : out) sum += x;
    std::printf("ok %g\n", sum);
    return 0;
  }
  return 2;
}
