// The launch: starts clusters, runs until all have ended, or reports why they cannot.
#include <cstdlib>
#include <deque>
#include <numeric>

#include "fibers.h"

namespace sapag::emulation {

using namespace internal;

namespace {

constexpr int kIdleRounds = 8;

std::vector<LaunchRecord> records;
std::deque<Fiber> pool;

void start_cta(Cta* cta) {
  const int threads = now->shape.block;
  cta->live = threads;
  cta->barrier.expected = threads;
  cta->blocks.reserve(kStaticArrays);
  cta->warps.resize(static_cast<std::size_t>((threads + kWarp - 1) / kWarp));
  cta->fibers.reserve(static_cast<std::size_t>(threads));
  for (int t = 0; t < threads; ++t) {
    Fiber* f = now->idle.back();
    now->idle.pop_back();
    f->thread = {static_cast<unsigned>(t), 0, 0};
    f->block = {cta->index, 0, 0};
    f->cta = cta;
    f->warp = &cta->warps[static_cast<std::size_t>(t / kWarp)];
    f->warp->cta = cta;
    f->warp->lanes[t % kWarp] = f;
    f->priority = draw();
    f->asan_frames = nullptr;
    f->clock = clock_of(cta->index * static_cast<std::size_t>(threads) + static_cast<std::size_t>(t));
    prepare_stack(f, now->idle.size());
    cta->fibers.push_back(f);
    make_ready(f);
  }
}

// A cluster's memory goes when its CTA does; its threads' places when the whole cluster does, as late lanes
// and ranks may still ask about them.
void thread_ended(Fiber* f) {
  Cta* cta = f->cta;
  ++cta->ended;
  progress();
  if (cta->barrier.arrived) reject_ended("__syncthreads", cta, cta->barrier_site);
  if (cta->cluster->barrier.arrived) reject_ended("cluster_sync", cta, cta->cluster->site);
  for (int i = 0; i < f->warp->open_count; ++i) {
    const Meeting& open = f->warp->open[i];
    if (open.mask >> (f->thread.x % kWarp) & 1) {
      stop("shuffle: " + who(f) + " ended while others wait for it with mask " + hexadecimal(open.mask) +
           " at " + name_of(open.operation) + " " + describe(open.site));
    }
  }
  if (--cta->live > 0) return;
  free_blocks(cta);
  Cluster* cluster = cta->cluster;
  if (--cluster->live_ctas > 0) return;
  for (Cta* each : cluster->ctas) {
    if (!with_tsan()) now->idle.insert(now->idle.end(), each->fibers.begin(), each->fibers.end());
    each->fibers.clear();
    each->warps.clear();
  }
  --now->live_clusters;
}

void start_clusters() {
  const std::size_t limit = now->shape.cooperative
                                ? now->clusters.size()
                                : static_cast<std::size_t>(std::max(1, options.resident_clusters));
  while (now->live_clusters < limit && now->started < now->order.size()) {
    Cluster& cluster = now->clusters[now->order[now->started++]];
    ++now->live_clusters;
    cluster.live_ctas = now->shape.cluster;
    cluster.barrier.expected = now->shape.cluster * now->shape.block;
    for (Cta* cta : cluster.ctas) start_cta(cta);
  }
}

// Nobody can run: each thread that waits, neighbours at one place in one line.
[[noreturn]] void deadlocked() {
  std::string report = "deadlock: no thread can go on";
  for (const Cta& cta : now->ctas) {
    for (std::size_t first = 0; first < cta.fibers.size();) {
      const Fiber* f = cta.fibers[first];
      std::size_t last = first;
      const auto alike = [&](const Fiber* other) {
        if ((f->state == State::done) != (other->state == State::done)) return false;
        return f->state == State::done || (f->operation == other->operation && same(f->site, other->site));
      };
      while (last + 1 < cta.fibers.size() && alike(cta.fibers[last + 1])) ++last;
      report += "\n  CTA " + std::to_string(cta.index) + " threads " + std::to_string(first) + "-" +
                std::to_string(last) + ": ";
      report += f->state == State::done ? "ended" : std::string(f->operation) + " " + describe(f->site);
      first = last + 1;
    }
  }
  if (now->started < now->order.size()) {
    report += "\n  " + std::to_string(now->order.size() - now->started) + " clusters have not started";
  }
  stop(report);
}

int check(const LaunchShape& shape) {
  if (shape.grid < 1 || shape.block < 1 || shape.block > 1024) return kInvalidConfiguration;
  if (shape.dynamic_shared_bytes < 0 || shape.dynamic_shared_bytes > options.shared_bytes) {
    return kInvalidConfiguration;
  }
  if (shape.cluster < 1 || shape.cluster > options.cluster_limit || shape.grid % shape.cluster)
    return kInvalidCluster;
  if (shape.cooperative && shape.grid > options.cooperative_limit) return kTooLarge;
  return static_cast<int>(records.size()) == options.fail_launch ? kLaunchFailure : 0;
}

}  // namespace

void configure(const Options& wanted) {
  options = wanted;
  random_state = wanted.seed * 0x2545f4914f6cdd1du + 1;
  records.clear();
}

const std::vector<LaunchRecord>& launch_log() {
  return records;
}

int run(const LaunchShape& shape, void* stream, void (*body)(void*), void* context) {
  if (now) stop("a launch from within a kernel");
  const int error = check(shape);
  records.push_back({shape, stream, error});
  if (error) return error;

  Launch launch;
  now = &launch;
  launch.shape = shape;
  launch.body = body;
  launch.context = context;
  launch.schedule =
      options.schedule == Schedule::by_seed ? static_cast<Schedule>(draw_below(4)) : options.schedule;
  touches_left = 1 + static_cast<int>(draw_below(2 * static_cast<uint64_t>(options.preemption) + 1));
  dimensions.grid = {static_cast<unsigned>(shape.grid), 1, 1};
  dimensions.block = {static_cast<unsigned>(shape.block), 1, 1};

  const auto grid = static_cast<std::size_t>(shape.grid), size = static_cast<std::size_t>(shape.cluster);
  const std::size_t threads = grid * static_cast<std::size_t>(shape.block);
  prepare_sanitizers(threads);
  // All before the kernel begins: an allocation is a write to ThreadSanitizer, and kernels read their
  // threadIdx here. A stack that served a thread before would show it the accesses of that one: there, one
  // for each.
  const std::size_t limit = static_cast<std::size_t>(std::max(1, options.resident_clusters)) * size;
  const std::size_t resident = shape.cooperative || with_tsan() ? grid : std::min(grid, limit);
  while (pool.size() < resident * static_cast<std::size_t>(shape.block)) pool.emplace_back();
  launch.ready.reserve(pool.size());
  launch.queue.resize(std::bit_ceil(pool.size()));
  launch.spinning.reserve(threads);
  launch.idle.reserve(threads + pool.size());
  for (Fiber& f : pool) launch.idle.push_back(&f);
  launch.ctas.resize(grid);
  launch.clusters.resize(grid / size);
  for (std::size_t i = 0; i < grid; ++i) {
    Cta& cta = launch.ctas[i];
    cta.index = static_cast<unsigned>(i);
    cta.rank = static_cast<int>(i % size);
    cta.cluster = &launch.clusters[i / size];
    cta.cluster->ctas.push_back(&cta);
  }
  launch.order.resize(launch.clusters.size());
  std::iota(launch.order.begin(), launch.order.end(), 0u);
  for (std::size_t i = launch.order.size(); i > 1; --i)
    std::swap(launch.order[i - 1], launch.order[draw_below(i)]);

  host.state = State::running;
  current = &host;
  release(&launch.begin);
  for (;;) {
    start_clusters();
    if (Fiber* f = pick()) {
      switch_to(f);
      // Back here from a thread that ended, or from one that found nobody to give way to.
      if (Fiber* ended = std::exchange(last_ended, nullptr)) thread_ended(ended);
      continue;
    }
    if (!launch.spinning.empty() && launch.idle_rounds < kIdleRounds) {
      const int rounds = launch.idle_rounds + 1;
      progress();
      launch.idle_rounds = rounds;
      continue;
    }
    if (launch.live_clusters == 0) break;
    deadlocked();
  }
  acquire_mark(&launch.end);
  now = nullptr;
  current = nullptr;
  here = nullptr;
  return 0;
}

}  // namespace sapag::emulation
