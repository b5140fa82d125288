// What the parts of the emulation share, and no kernel sees: the state of a launch, and the scheduler, which
// is here as a whole because a switch takes a few nanoseconds and a call more would show.
//
//   context_switch.cpp  the switch between two stacks, and what a new stack holds
//   scheduler.cpp       where threads give way without a barrier; reports
//   barriers.cpp        __syncthreads, cluster_sync
//   warps.cpp           __syncwarp, shuffles, votes
//   races.cpp           fences and atomics, as ThreadSanitizer is to see them
//   shared_memory.cpp   the arrays of each CTA
//   launch.cpp          starts clusters, runs until all have ended, or reports why they cannot
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cuda_emulation.h"

extern "C" void sapag_emulation_switch(void** save, void* load);

// Weak, so that one object file serves every build of the kernels.
extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* saved, const void** bottom, size_t* size);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);
}

namespace sapag::emulation::internal {

constexpr unsigned kNoSync = 1;  // of __tsan_switch_to_fiber: the scheduler's order is none that CUDA gives

inline bool with_tsan() {
  return __tsan_create_fiber != nullptr;
}
inline bool with_asan() {
  return __sanitizer_start_switch_fiber != nullptr;
}

// Only its address matters: what ThreadSanitizer keeps a clock for, 8 bytes at least as it does not tell less
// apart.
struct alignas(16) Mark {
  char byte = 0;
};

// A CUDA thread as ThreadSanitizer knows it. A fence publishes what came before it through the atomics that
// come after it, and no later write; an atomic read before a fence is acquired by that fence. ThreadSanitizer
// has no such fence, so two helpers, which do nothing of their own, hold these two states of the thread's
// clock.
struct Clock {
  void* thread = nullptr;
  void* published = nullptr;
  void* collected = nullptr;
  Mark fence_out, fence_in;
};

inline void release(Mark* mark) {
  if (with_tsan()) __tsan_release(mark);
}
inline void acquire_mark(Mark* mark) {
  if (with_tsan()) __tsan_acquire(mark);
}

// ---- the state of a launch

enum class State { ready, running, waiting, spinning, done };

struct Cta;
struct Fiber;

// Lanes that met, or will, for one warp operation.
struct Meeting {
  unsigned mask = 0, arrived = 0;
  WarpOperation operation = WarpOperation::sync;
  int width = 32;
  Site site;
  Mark* mark = nullptr;
};

constexpr int kWarp = 32, kMarks = 8;

struct Warp {
  Cta* cta = nullptr;
  Fiber* lanes[kWarp] = {};
  Meeting open[kWarp];
  int open_count = 0;
  unsigned turn = 0;
  Mark marks[kMarks];
};

struct Fiber : Thread {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  void* asan_frames = nullptr;
  Clock* clock = nullptr;
  Cta* cta = nullptr;
  Warp* warp = nullptr;
  Fiber* next = nullptr;  // in a barrier's list
  State state = State::done;
  uint64_t priority = 0;
  uint64_t bits = 0;  // of a warp operation: the lane's own, then its result
  int argument = 0;
  const char* operation = "";
  Site site;
};

// Threads wait here until all have come. Two marks in turn: with one alone, a thread already on its way to
// the next barrier would seem to be ordered before those that still have to leave this one.
struct Meet {
  int expected = 0, arrived = 0;
  Fiber* waiting = nullptr;
  Fiber* last = nullptr;
  Mark marks[2];
  unsigned turn = 0;
};

struct Block {
  const void* key;
  char* data;
  std::size_t bytes;
};

struct Cluster;

struct Cta {
  unsigned index = 0;
  int rank = 0;
  Cluster* cluster = nullptr;
  int live = 0, ended = 0;
  Meet barrier;
  Site barrier_site, cluster_site;
  int at_cluster_barrier = 0;
  std::vector<Fiber*> fibers;
  std::vector<Warp> warps;
  std::vector<Block> blocks;
  std::size_t static_bytes = 0;
};

struct Cluster {
  std::vector<Cta*> ctas;
  int live_ctas = 0;
  Meet barrier;
  Site site;
};

struct Launch {
  LaunchShape shape;
  void (*body)(void*);
  void* context;
  Schedule schedule;
  std::vector<Fiber*> ready;
  std::vector<Fiber*> queue;  // in its place under first_in: a ring, a power of two long
  std::size_t queue_head = 0, queue_tail = 0;
  std::vector<Fiber*> spinning;
  std::vector<Fiber*> idle;  // the pool's fibers that no thread uses
  int idle_rounds = 0;
  std::vector<Cta> ctas;
  std::vector<Cluster> clusters;
  std::vector<unsigned> order;
  std::size_t started = 0, live_clusters = 0;
  Mark begin, end;
};

constexpr std::size_t kStackBytes = 256 * 1024;
constexpr int kStaticArrays = 64;  // of a CTA, at most

extern Options options;
extern uint64_t random_state;
extern int touches_left;  // memory accesses before the next preemption
extern Launch* now;
extern Fiber* current;
extern Fiber* last_ended;
extern Fiber host;  // the calling thread's own stack
extern Clock host_clock;
extern const void* host_bottom;
extern std::size_t host_size;

inline uint64_t draw() {  // splitmix64: one addition and a mix, and any seed is a good one
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
inline uint64_t draw_below(uint64_t bound) {
  return draw() % bound;
}

// ---- reports

std::string describe(const Site& site);
std::string who(const Fiber* f);
std::string hexadecimal(unsigned value);
const char* name_of(WarpOperation operation);
[[noreturn]] void stop(const std::string& report);
void reject_ended(const char* barrier, const Cta* cta, const Site& site);
inline bool same(const Site& a, const Site& b) {
  if (std::memcmp(&a, &b, sizeof(Site)) == 0)
    return true;  // nearly always: both point to the one description
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

// ---- the scheduler: the threads that could run, and the drawing of the next one

inline bool less_urgent(const Fiber* a, const Fiber* b) {
  return a->priority < b->priority;
}

inline void make_ready(Fiber* f) {
  f->state = State::ready;
  if (now->schedule == Schedule::first_in) {
    now->queue[now->queue_tail++ & (now->queue.size() - 1)] = f;
    return;
  }
  now->ready.push_back(f);
  if (now->schedule == Schedule::priority) std::push_heap(now->ready.begin(), now->ready.end(), less_urgent);
}

inline Fiber* pick() {
  if (now->schedule == Schedule::first_in) {
    if (now->queue_head == now->queue_tail) return nullptr;
    return now->queue[now->queue_head++ & (now->queue.size() - 1)];
  }
  std::vector<Fiber*>& ready = now->ready;
  if (ready.empty()) return nullptr;
  if (now->schedule == Schedule::random) std::swap(ready[draw_below(ready.size())], ready.back());
  if (now->schedule == Schedule::priority) std::pop_heap(ready.begin(), ready.end(), less_urgent);
  Fiber* f = ready.back();
  ready.pop_back();
  return f;
}

inline void tsan_switch(void* thread) {
  __tsan_switch_to_fiber(thread, kNoSync);
}

inline void switch_to(Fiber* to) {
  Fiber* from = current;
  current = to;
  here = to;
  if (to != &host) to->state = State::running;
  if (with_tsan()) tsan_switch(to->clock->thread);
  if (with_asan()) {
    const bool to_host = to == &host;
    __sanitizer_start_switch_fiber(from->state == State::done ? nullptr : &from->asan_frames,
                                   to_host ? host_bottom : to->stack, to_host ? host_size : kStackBytes);
  }
  sapag_emulation_switch(&from->stack_pointer, to->stack_pointer);
  if (with_asan()) __sanitizer_finish_switch_fiber(from->asan_frames, nullptr, nullptr);
}

// The running thread cannot go on (its state says why): the next one runs, or the host sorts it out.
inline void give_way() {
  Fiber* self = current;
  Fiber* next = pick();
  if (next == self) {
    self->state = State::running;
    return;
  }
  switch_to(next ? next : &host);
}

// Something happened that a spinning thread may be waiting for.
inline void progress() {
  now->idle_rounds = 0;
  for (Fiber* f : now->spinning) make_ready(f);
  now->spinning.clear();
}

// ---- what launches ask of the other parts

void prepare_stack(Fiber* f, std::size_t number);  // of a thread that is to begin
void prepare_sanitizers(std::size_t threads);
Clock* clock_of(std::size_t thread);
char* new_arena_block(std::size_t bytes);
void free_blocks(Cta* cta);

}  // namespace sapag::emulation::internal
