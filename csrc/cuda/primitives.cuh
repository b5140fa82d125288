// What the kernels need of the device, under one set of names: included first by every kernel file.
//
// Under nvcc these names are intrinsics and PTX. Under g++ with SAPAG_EMULATE the same kernel source runs on
// the host: tests/emulation/cuda_emulation.h (its folder is given with -I) supplies threadIdx, __syncthreads,
// shuffles, atomics and fences, one fiber for each CUDA thread. Kernels therefore declare no __shared__
// variable and write no asm of their own; all of that is here:
//
//   1. conversions of 16-bit floats, which kernels hold as raw uint16_t;
//   2. shared memory: static_shared, dyn_shared, and cluster_map into another CTA's;
//   3. 16-byte loads and stores;
//   4. clusters: rank, size, barrier;
//   5. the barrier over a cooperative grid, built from fences and atomics in both worlds.
#pragma once

#include <cstdint>

#ifdef SAPAG_EMULATE
#include "cuda_emulation.h"
#else
#include <cuda_runtime.h>
#endif

// A large parameter of a kernel, read from constant memory and never copied: `SAPAG_PARAMETER(Plan) plan` in
// the kernel's declaration. By reference in the emulation, where each thread would otherwise copy it.
#ifdef SAPAG_EMULATE
#define SAPAG_PARAMETER(Type) const Type&
#else
#define SAPAG_PARAMETER(Type) const __grid_constant__ Type
#endif

namespace sapag::gpu {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

// Blocks are one-dimensional throughout.
__device__ __forceinline__ int lane() {
  return static_cast<int>(threadIdx.x % kWarpSize);
}
__device__ __forceinline__ int warp() {
  return static_cast<int>(threadIdx.x / kWarpSize);
}

// ---- 1. 16-bit floats

__device__ __forceinline__ float bf16_to_float(uint16_t bits) {
#ifdef SAPAG_EMULATE
  return emulation::bf16_to_float(bits);
#else
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
#endif
}

__device__ __forceinline__ uint16_t float_to_bf16(float value) {
#ifdef SAPAG_EMULATE
  return emulation::float_to_bf16(value);
#else
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#endif
}

__device__ __forceinline__ float half_to_float(uint16_t bits) {
#ifdef SAPAG_EMULATE
  return emulation::half_to_float(bits);
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#endif
}

__device__ __forceinline__ uint16_t float_to_half(float value) {
#ifdef SAPAG_EMULATE
  return emulation::float_to_half(value);
#else
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#endif
}

// ---- 2. shared memory

// One array for each distinct (T, kCount, Tag), the same for all threads of the CTA. Not initialised.
template <class T, int kCount, class Tag>
__device__ __forceinline__ T* static_shared() {
#ifdef SAPAG_EMULATE
  static const char key = 0;
  return static_cast<T*>(emulation::shared_block(&key, sizeof(T) * kCount));
#else
  __shared__ __align__(16) T array[kCount];
  return array;
#endif
}

// The dynamic shared memory of the launch; every T shares the one base.
template <class T>
__device__ __forceinline__ T* dyn_shared() {
#ifdef SAPAG_EMULATE
  return static_cast<T*>(emulation::dynamic_shared_block());
#else
  extern __shared__ __align__(16) unsigned char sapag_dynamic_shared[];
  return reinterpret_cast<T*>(sapag_dynamic_shared);
#endif
}

// ---- 3. 16-byte accesses; the pointers are multiples of 16

#ifdef SAPAG_EMULATE
using emulation::load16;
using emulation::load16_keep;
using emulation::store16;
#else
// Read once: leaves L1 to others. The memory must not be written by the same kernel.
__device__ __forceinline__ uint4 load16(const void* source) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(source));
  return v;
}
// Read again soon, or written by the same kernel: an ordinary load.
__device__ __forceinline__ uint4 load16_keep(const void* source) {
  return *static_cast<const uint4*>(source);
}
// Written once and not read again by this kernel: the first to leave the caches.
__device__ __forceinline__ void store16(void* target, uint4 v) {
  __stcs(static_cast<uint4*>(target), v);
}
#endif

// ---- 4. thread-block clusters (sm_90 and later; elsewhere every CTA is alone)

#ifdef SAPAG_EMULATE
using emulation::cluster_map;
using emulation::cluster_rank;
using emulation::cluster_size;
using emulation::cluster_sync;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ int cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
__device__ __forceinline__ int cluster_size() {
  unsigned size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
}
// The address, in the CTA of that rank, of the variable at shared_pointer in this one. That CTA has to have
// started (a cluster_sync before the first access) and must not end before the last access (one after it).
template <class T>
__device__ __forceinline__ T* cluster_map(T* shared_pointer, int rank) {
  uint64_t address;
  asm("mapa.u64 %0, %1, %2;"
      : "=l"(address)
      : "l"(reinterpret_cast<uint64_t>(shared_pointer)), "r"(static_cast<unsigned>(rank)));
  return reinterpret_cast<T*>(address);
}
// All threads of the cluster; orders shared and global memory among them.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#else
__device__ __forceinline__ int cluster_rank() {
  return 0;
}
__device__ __forceinline__ int cluster_size() {
  return 1;
}
template <class T>
__device__ __forceinline__ T* cluster_map(T* shared_pointer, int) {
  return shared_pointer;
}
__device__ __forceinline__ void cluster_sync() {
  __syncthreads();
}
#endif

// ---- 5. the grid

#ifdef SAPAG_EMULATE
using emulation::load_acquire;
using emulation::spin_pause;
#else
__device__ __forceinline__ unsigned load_acquire(const unsigned* source) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(source) : "memory");
  return value;
}
__device__ __forceinline__ void spin_pause() {
  __nanosleep(20);
}
#endif

// In global memory and zero before its first use. It is left ready for the next barrier and the next launch,
// whatever that one's grid, so that a captured graph can be replayed without clearing it.
struct GridBarrier {
  unsigned arrived;
  unsigned generation;
};

// All threads of `members` CTAs that are resident together, a cooperative grid or a part of one; orders
// global memory among them.
//  1. The CTA's threads meet, so that thread 0 speaks for their writes.
//  2. Its fence publishes them, and it reads the generation before it arrives: later it could be the next
//  one.
//  3. The last CTA resets the count, then opens the next generation; the others wait for that. Its fence
//     between the two also acquires what the others published before they arrived, and the others' loads of
//     the generation acquire: no fence is needed after the wait.
//  4. The CTA's threads meet again, and see what thread 0 has acquired.
__device__ __forceinline__ void grid_sync(GridBarrier* barrier, unsigned members) {
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned generation = load_acquire(&barrier->generation);
    __threadfence();
    if (atomicAdd(&barrier->arrived, 1u) == members - 1) {
      atomicExch(&barrier->arrived, 0u);
      __threadfence();
      atomicAdd(&barrier->generation, 1u);
    } else {
      while (load_acquire(&barrier->generation) == generation) spin_pause();
    }
  }
  __syncthreads();
}

}  // namespace sapag::gpu
