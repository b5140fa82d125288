// CUDA on the host: the names that csrc/cuda/primitives.cuh and the kernels take from nvcc, for g++
// -std=c++20.
//
//  1. A launch runs one fiber for each CUDA thread, all on the calling OS thread. A fiber runs until it
//  waits: at
//     a barrier, a shuffle, a spin, or where `preemption` interrupts it at a memory access.
//  2. Who runs next is drawn from a seed, as is the order of the CTAs. CTAs of a cluster are resident
//  together,
//     so are all CTAs of a cooperative launch; of others, up to `resident_clusters` at a time.
//  3. What no thread can ever leave is a deadlock. Threads of one CTA at different barriers, or at one that
//  others
//     ended without reaching, are divergence. Shuffles check that the lanes of the mask, and only these, take
//     part. Each of these ends the process with a report and kExitCode.
//  4. Every shared array is a heap block of exactly its size, filled with 0xff bytes (NaN as a float, -1 as
//  an
//     integer) when its CTA starts and freed when it ends: AddressSanitizer sees overruns and accesses to a
//     CTA that has ended, and a stale read shows in the results.
//  5. To ThreadSanitizer each fiber is a thread of its own, and only what CUDA orders is ordered: barriers,
//  atomics
//     together with fences, __syncwarp, the start and the end of a launch. Shuffles order nothing.
//
// Not modelled: weak memory beyond happens-before, warps in lockstep, timing, occupancy, inline assembly.
// fibers.h lists the files that do this; they must be compiled without any sanitizer: it would take the
// scheduler for part of the kernels.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline  // not forced: the sanitizers would take minutes to compile it
#define __noinline__  // of `__attribute__((__noinline__))` in the standard library it leaves an empty list
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define threadIdx (::sapag::emulation::here->thread)
#define blockIdx (::sapag::emulation::here->block)
#define blockDim (::sapag::emulation::dimensions.block)
#define gridDim (::sapag::emulation::dimensions.grid)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
inline double2 make_double2(double x, double y) {
  return {x, y};
}

namespace sapag::emulation {

using Site = std::source_location;

constexpr int kExitCode = 86;

// ---- what a harness sets and reads

enum class Schedule { first_in, last_in, random, priority, by_seed };

struct Options {
  uint64_t seed = 0;
  Schedule schedule = Schedule::by_seed;
  int resident_clusters = 2;  // at least; a cooperative launch is resident as a whole
  int preemption = 0;         // interrupt a thread at one of this many memory accesses; 0: never
  // The device.
  int shared_bytes = 232448;        // of one CTA, static arrays included
  int static_shared_bytes = 49152;  // of these, in static arrays
  int cluster_limit = 16;           // CTAs; 1: a device without clusters
  int cooperative_limit = 64;       // CTAs of a cooperative launch
  int fail_launch = -1;             // the launch of this number fails with kLaunchFailure
};

// The numbers of cudaError_t.
constexpr int kInvalidConfiguration = 9, kOutOfResources = 701, kLaunchFailure = 719, kTooLarge = 720,
              kInvalidCluster = 912;

struct LaunchShape {
  int grid = 1;
  int block = 1;
  int dynamic_shared_bytes = 0;
  int cluster = 1;
  bool cooperative = false;
};

struct LaunchRecord {
  LaunchShape shape;
  void* stream;
  int error;
};

void configure(const Options& options);         // also empties the log and starts the seed's draws again
const std::vector<LaunchRecord>& launch_log();  // since configure

// ---- the thread that runs

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
struct Thread {
  Index thread, block;
};
struct Dimensions {
  dim3 block, grid;
};
extern Thread* here;
extern Dimensions dimensions;

// ---- the scheduler's side

enum class Barrier { block, cluster };
enum class WarpOperation { sync, shuffle, shuffle_xor, shuffle_down, shuffle_up, ballot };

void wait_at(Barrier barrier, const Site& site);
// bits of the lane that the operation names, or of this lane where it names none in its segment of width
// lanes
uint64_t exchange(WarpOperation operation, unsigned mask, uint64_t bits, int argument, int width,
                  const Site& site);
void fence(bool device_wide);
void before_atomic(const void* address);  // publishes what the thread's last fence covered
void after_atomic(const void* address);   // and takes what its next fence acquires
void acquire(const void* address);
void touch();  // a memory access: where preemption may strike
void check_aligned(const void* address, std::size_t bytes, const Site& site);
void spin_pause(const Site& site = Site::current());

void* shared_block(const void* key, std::size_t bytes);
void* dynamic_shared_block();
int cluster_rank();
int cluster_size();
void* map_shared(void* pointer, int rank, const Site& site);
template <class T>
T* cluster_map(T* shared_pointer, int rank, const Site& site = Site::current()) {
  return static_cast<T*>(map_shared(const_cast<std::remove_const_t<T>*>(shared_pointer), rank, site));
}
inline void cluster_sync(const Site& site = Site::current()) {
  wait_at(Barrier::cluster, site);
}

int run(const LaunchShape& shape, void* stream, void (*body)(void*), void* context);

template <class... Parameters, class... Arguments>
int launch_kernel(void (*kernel)(Parameters...), const LaunchShape& shape, void* stream,
                  Arguments&&... arguments) {
  // One copy for all threads, as of a kernel's parameters.
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::remove_cvref_t<Parameters>...> arguments;
  } call{kernel, {static_cast<std::remove_cvref_t<Parameters>>(arguments)...}};
  return run(
      shape, stream,
      [](void* c) { std::apply(static_cast<Call*>(c)->kernel, static_cast<Call*>(c)->arguments); }, &call);
}

// ---- memory

inline uint4 load16(const void* source, const Site& site = Site::current()) {
  check_aligned(source, 16, site);
  touch();
  return *static_cast<const uint4*>(source);
}
inline uint4 load16_keep(const void* source, const Site& site = Site::current()) {
  return load16(source, site);
}
inline void store16(void* target, const uint4& value, const Site& site = Site::current()) {
  check_aligned(target, 16, site);
  touch();
  *static_cast<uint4*>(target) = value;
}
inline unsigned load_acquire(const unsigned* source) {
  const unsigned value = __atomic_load_n(source, __ATOMIC_RELAXED);
  acquire(source);
  return value;
}

// ---- 16-bit floats

inline float bf16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
inline uint16_t float_to_bf16(float value) {
  if (std::isnan(value)) return 0x7fff;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float half_to_float(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  float magnitude = std::ldexp(static_cast<float>(fraction), -24);
  if (exponent == 31) {
    magnitude = fraction ? std::nanf("") : HUGE_VALF;
  } else if (exponent > 0) {
    magnitude = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  }
  return bits & 0x8000 ? -magnitude : magnitude;
}
inline uint16_t float_to_half(float value) {
  if (std::isnan(value)) return 0x7fff;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  // In units of the last place of its binade (of the subnormals below 2^-14), to the nearest even: a carry
  // out of the fraction is the next exponent, as it should be.
  const int exponent = magnitude < std::ldexp(1.0f, -14) ? -14 : std::ilogb(magnitude);
  const int units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  const int base = (exponent + 14) << 10;
  return static_cast<uint16_t>(sign | (base + units));
}

}  // namespace sapag::emulation

// ---- CUDA's own names

inline void __syncthreads(const sapag::emulation::Site& site = sapag::emulation::Site::current()) {
  sapag::emulation::wait_at(sapag::emulation::Barrier::block, site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       const sapag::emulation::Site& site = sapag::emulation::Site::current()) {
  sapag::emulation::exchange(sapag::emulation::WarpOperation::sync, mask, 0, 0, 32, site);
}
inline void __threadfence() {
  sapag::emulation::fence(true);
}
inline void __threadfence_block() {
  sapag::emulation::fence(false);
}

namespace sapag::emulation {
template <class T>
T exchange_value(WarpOperation operation, unsigned mask, T value, int argument, int width, const Site& site) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(operation, mask, bits, argument, width, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
}  // namespace sapag::emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              const sapag::emulation::Site& site = sapag::emulation::Site::current()) {
  using sapag::emulation::WarpOperation;
  return sapag::emulation::exchange_value(WarpOperation::shuffle, mask, value, source, width, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  const sapag::emulation::Site& site = sapag::emulation::Site::current()) {
  using sapag::emulation::WarpOperation;
  return sapag::emulation::exchange_value(WarpOperation::shuffle_xor, mask, value, lanes, width, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned offset, int width = 32,
                   const sapag::emulation::Site& site = sapag::emulation::Site::current()) {
  using sapag::emulation::WarpOperation;
  return sapag::emulation::exchange_value(WarpOperation::shuffle_down, mask, value, static_cast<int>(offset),
                                          width, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned offset, int width = 32,
                 const sapag::emulation::Site& site = sapag::emulation::Site::current()) {
  using sapag::emulation::WarpOperation;
  return sapag::emulation::exchange_value(WarpOperation::shuffle_up, mask, value, static_cast<int>(offset),
                                          width, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              const sapag::emulation::Site& site = sapag::emulation::Site::current()) {
  using sapag::emulation::WarpOperation;
  return static_cast<unsigned>(
      sapag::emulation::exchange(WarpOperation::ballot, mask, predicate != 0, 0, 32, site));
}

template <class T>
T __ldg(const T* source, const sapag::emulation::Site& site = sapag::emulation::Site::current()) {
  sapag::emulation::check_aligned(source, alignof(T), site);
  sapag::emulation::touch();
  return *source;
}

// Relaxed, as CUDA's: without a fence on either side they order nothing but themselves.
template <class T>
T atomicAdd(T* target, std::type_identity_t<T> value) {
  sapag::emulation::before_atomic(target);
  const T old = __atomic_fetch_add(target, value, __ATOMIC_RELAXED);
  sapag::emulation::after_atomic(target);
  return old;
}
template <class T>
T atomicExch(T* target, std::type_identity_t<T> value) {
  sapag::emulation::before_atomic(target);
  const T old = __atomic_exchange_n(target, value, __ATOMIC_RELAXED);
  sapag::emulation::after_atomic(target);
  return old;
}

inline unsigned __float_as_uint(float value) {
  return std::bit_cast<unsigned>(value);
}
inline float __uint_as_float(unsigned bits) {
  return std::bit_cast<float>(bits);
}
template <class T>
T min(T a, std::type_identity_t<T> b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, std::type_identity_t<T> b) {
  return a < b ? b : a;
}
inline float rsqrtf(float value) {
  return 1.0f / std::sqrt(value);
}
inline double rsqrt(double value) {
  return 1.0 / std::sqrt(value);
}
