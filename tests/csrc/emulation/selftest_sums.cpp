// Kernels that sum, through each means of the emulation; a run is CASE FIRST_SEED SEEDS, and prints `ok` or
// what was wrong. The `no_...` cases leave one means out: results, AddressSanitizer or ThreadSanitizer have
// to show it.
//
//  1. block: shuffles within warps, a shared array among them.
//  2. cluster: each CTA's sum read by the others through distributed shared memory.
//  3. grid: partial sums of all CTAs in global memory, read after grid_sync; twice, so that its reset is
//  used.
//  4. last: the last CTA to draw a ticket adds the partial sums of all.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "launch.h"

using namespace sapag::gpu;

namespace {

struct Warps;
struct Totals;
struct Last;
constexpr int kBlock = 64, kPerThread = 3;

enum Left {
  nothing,
  block_barrier,
  cluster_barrier,
  last_barrier,
  grid_barrier,
  ticket_fence,
  atomic_ticket
};

struct Job {
  const float* values;
  float* partial;
  float* out;
  GridBarrier* barrier;
  unsigned* tickets;
  int count;
  Left left;
};

__device__ float block_sum(float value, Left left) {
  float* sums = static_shared<float, kBlock / kWarpSize, Warps>();
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2)
    value += __shfl_down_sync(kFullWarp, value, offset);
  if (lane() == 0) sums[warp()] = value;
  if (left != block_barrier) __syncthreads();
  float total = 0;
  for (int w = 0; w < kBlock / kWarpSize; ++w) total += sums[w];
  __syncthreads();
  return total;
}

__device__ float own_sum(const Job& job) {
  const int first = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * kPerThread;
  float sum = 0;
  for (int i = first; i < first + kPerThread && i < job.count; ++i) sum += __ldg(job.values + i);
  return sum;
}

__global__ void __launch_bounds__(kBlock) sum_block(SAPAG_PARAMETER(Job) job) {
  const float total = block_sum(own_sum(job), job.left);
  if (threadIdx.x == 0) job.partial[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kBlock) sum_cluster(SAPAG_PARAMETER(Job) job) {
  float* total = static_shared<float, 1, Totals>();
  const float sum = block_sum(own_sum(job), job.left);
  if (threadIdx.x == 0) *total = sum;
  if (job.left != cluster_barrier) cluster_sync();
  if (static_cast<int>(threadIdx.x) == cluster_rank()) {
    float all = 0;
    for (int rank = 0; rank < cluster_size(); ++rank) all += *cluster_map(total, rank);
    job.partial[blockIdx.x] = all;
  }
  if (job.left != last_barrier) cluster_sync();
}

__global__ void __launch_bounds__(kBlock) sum_grid(SAPAG_PARAMETER(Job) job) {
  for (int turn = 1; turn <= 2; ++turn) {
    const float total = static_cast<float>(turn) * block_sum(own_sum(job), job.left);
    if (threadIdx.x == 0) job.partial[blockIdx.x] = total;
    if (job.left != grid_barrier) grid_sync(job.barrier, gridDim.x);
    float all = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) all += job.partial[b];
    if (threadIdx.x == 0) job.out[blockIdx.x] = all;
    grid_sync(job.barrier, gridDim.x);
  }
}

__global__ void __launch_bounds__(kBlock) sum_last(SAPAG_PARAMETER(Job) job) {
  bool* last = static_shared<bool, 1, Last>();
  const float total = block_sum(own_sum(job), job.left);
  if (threadIdx.x == 0) {
    job.partial[blockIdx.x] = total;
    if (job.left != ticket_fence) __threadfence();
    const unsigned ticket = job.left == atomic_ticket ? (*job.tickets)++ : atomicAdd(job.tickets, 1u);
    *last = ticket == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (!*last) return;
  float all = 0;
  for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x) all += job.partial[b];
  all = block_sum(all, nothing);
  if (threadIdx.x == 0) *job.out = all;
}

// The heap, exactly: an overrun is AddressSanitizer's to see.
template <class T>
std::unique_ptr<T[]> filled(std::size_t count, T value) {
  std::unique_ptr<T[]> memory(new T[count]);
  for (std::size_t i = 0; i < count; ++i) memory[i] = value;
  return memory;
}

int fail(const std::string& test, uint64_t seed, float value, float expected) {
  std::printf("%s, seed %llu: %g instead of %g\n", test.c_str(), static_cast<unsigned long long>(seed), value,
              expected);
  return 1;
}

int once(const std::string& test, uint64_t seed) {
  const Left left = test == "no_block_barrier"     ? block_barrier
                    : test == "no_cluster_barrier" ? cluster_barrier
                    : test == "no_last_barrier"    ? last_barrier
                    : test == "no_grid_barrier"    ? grid_barrier
                    : test == "no_ticket_fence"    ? ticket_fence
                    : test == "no_atomic_ticket"   ? atomic_ticket
                                                   : nothing;
  const bool cluster = test == "cluster" || left == cluster_barrier || left == last_barrier;
  const bool grid = test == "grid" || left == grid_barrier;
  const bool last = test == "last" || left == ticket_fence || left == atomic_ticket;
  sapag::emulation::Options options;
  options.seed = seed;
  options.resident_clusters = 1 + static_cast<int>(seed / 4 % 3);
  options.preemption = seed % 3 ? 0 : 16;
  sapag::emulation::configure(options);

  const int ctas = 4 + static_cast<int>(seed % 3) * 2, size = cluster ? (seed % 2 ? 2 : ctas) : 1;
  const int count = ctas * kBlock * kPerThread - static_cast<int>(seed % 7);
  auto values = filled<float>(static_cast<std::size_t>(count), 0);
  std::vector<float> sums(static_cast<std::size_t>(ctas), 0);
  float whole = 0;
  for (int i = 0; i < count; ++i) {
    values[static_cast<std::size_t>(i)] = static_cast<float>(i % 11);  // exact in any order
    sums[static_cast<std::size_t>(i / (kBlock * kPerThread))] += static_cast<float>(i % 11);
    whole += static_cast<float>(i % 11);
  }
  auto partial = filled<float>(static_cast<std::size_t>(ctas), -1);
  auto out = filled<float>(static_cast<std::size_t>(ctas), -1);
  GridBarrier barrier{0, 0};
  unsigned tickets = 0;
  const Job job{values.get(), partial.get(), out.get(), &barrier, &tickets, count, left};
  const auto kernel = cluster ? sum_cluster : grid ? sum_grid : last ? sum_last : sum_block;
  if (const int error = launch(kernel, LaunchShape{ctas, kBlock, 0, size, grid}, nullptr, job)) {
    std::printf("error %d\n", error);
    return 1;
  }
  for (int b = 0; b < ctas; ++b) {
    const auto i = static_cast<std::size_t>(b);
    float expected = sums[i];
    if (cluster) {
      expected = 0;
      for (int r = 0; r < size; ++r) expected += sums[static_cast<std::size_t>(b / size * size + r)];
    }
    if (!grid && !last && partial[i] != expected) return fail(test, seed, partial[i], expected);
    if (grid && out[i] != 2 * whole) return fail(test, seed, out[i], 2 * whole);
  }
  if (last && out[0] != whole) return fail(test, seed, out[0], whole);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) return 2;
  const uint64_t first = std::strtoull(arguments[2], nullptr, 10),
                 seeds = std::strtoull(arguments[3], nullptr, 10);
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    if (once(arguments[1], seed)) return 1;
  }
  std::printf("ok\n");
  return 0;
}
