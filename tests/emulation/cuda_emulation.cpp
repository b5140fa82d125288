// The fibers and their scheduler; what it promises is at the top of cuda_emulation.h.
//
//  1. Context switch: the callee-saved registers and the stack pointer, nothing else.
//  2. Sanitizers: weak references, so that one object file serves every build of the kernels.
//  3. Scheduler: the threads that could run, and the drawing of the next one.
//  4. Barriers, warp operations, fences.
//  5. Shared memory of each CTA.
//  6. The launch: starts clusters, runs until all have ended, or reports why they cannot.
#include "cuda_emulation.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

// ---- 1. context switch

extern "C" void sapag_emulation_switch(void** save, void* load);

#if defined(__x86_64__)
constexpr int kSavedWords = 6;
asm(R"(
.text
.globl sapag_emulation_switch
.type sapag_emulation_switch, @function
sapag_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  retq
.size sapag_emulation_switch, .-sapag_emulation_switch
)");
#elif defined(__aarch64__)
constexpr int kSavedWords = 20;
asm(R"(
.text
.globl sapag_emulation_switch
.type sapag_emulation_switch, %function
sapag_emulation_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size sapag_emulation_switch, .-sapag_emulation_switch
)");
#else
#error "the emulation's context switch is written for x86-64 and aarch64"
#endif

// ---- 2. sanitizers

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* saved, const void** bottom, size_t* size);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);
}

namespace sapag::emulation {

Thread* here = nullptr;
Dimensions dimensions;

namespace {

constexpr unsigned kNoSync = 1;  // of __tsan_switch_to_fiber: the scheduler's order is none that CUDA gives

bool with_tsan() {
  return __tsan_create_fiber != nullptr;
}
bool with_asan() {
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

void release(Mark* mark) {
  if (with_tsan()) __tsan_release(mark);
}
void acquire_mark(Mark* mark) {
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

constexpr std::size_t kStackBytes = 256 * 1024, kGuardBytes = 4096;
constexpr std::size_t kArenaBytes = std::size_t{1} << 30;
constexpr int kIdleRounds = 8;
constexpr int kStaticArrays = 64;
const char kDynamicKey = 0;

Options options;
std::vector<LaunchRecord> records;
uint64_t random_state = 0;

uint64_t draw() {  // splitmix64: one addition and a mix, and any seed is a good one
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}
uint64_t draw_below(uint64_t bound) {
  return draw() % bound;
}

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

Launch* now = nullptr;
Fiber* current = nullptr;
Fiber* last_ended = nullptr;
Fiber host;  // the calling thread's own stack
const void* host_bottom = nullptr;
std::size_t host_size = 0;
std::deque<Fiber> pool;
std::deque<Clock> clocks;
Clock host_clock;
char* arena = nullptr;
std::size_t arena_used = 0;
int touches_left = 0;

std::string describe(const Site& site) {
  const char* path = site.file_name();
  const char* slash = std::strrchr(path, '/');
  return std::string(slash ? slash + 1 : path) + ":" + std::to_string(site.line());
}

[[noreturn]] void stop(const std::string& report) {
  std::fflush(stdout);
  std::fprintf(stderr, "emulation: %s\n", report.c_str());
  std::fflush(stderr);
  std::_Exit(kExitCode);
}

std::string who(const Fiber* f) {
  return "CTA " + std::to_string(f->block.x) + " thread " + std::to_string(f->thread.x);
}

// ---- 3. scheduler

bool less_urgent(const Fiber* a, const Fiber* b) {
  return a->priority < b->priority;
}

void make_ready(Fiber* f) {
  f->state = State::ready;
  if (now->schedule == Schedule::first_in) {
    now->queue[now->queue_tail++ & (now->queue.size() - 1)] = f;
    return;
  }
  now->ready.push_back(f);
  if (now->schedule == Schedule::priority) std::push_heap(now->ready.begin(), now->ready.end(), less_urgent);
}

Fiber* pick() {
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

void tsan_switch(void* thread) {
  __tsan_switch_to_fiber(thread, kNoSync);
}

void switch_to(Fiber* to) {
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
void give_way() {
  Fiber* self = current;
  Fiber* next = pick();
  if (next == self) {
    self->state = State::running;
    return;
  }
  switch_to(next ? next : &host);
}

// Something happened that a spinning thread may be waiting for.
void progress() {
  now->idle_rounds = 0;
  for (Fiber* f : now->spinning) make_ready(f);
  now->spinning.clear();
}

[[noreturn]] void fiber_main() {
  Fiber* self = current;
  if (with_asan()) {
    const void* bottom = nullptr;
    std::size_t size = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!host_bottom) {  // the first fiber of all comes from the host's stack
      host_bottom = bottom;
      host_size = size;
    }
  }
  acquire_mark(&now->begin);
  now->body(now->context);
  release(&now->end);
  self->state = State::done;
  last_ended = self;
  switch_to(&host);
  std::abort();
}

void prepare_stack(Fiber* f, std::size_t number) {
  if (!f->stack) {
    void* memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) stop("no memory for the stacks of " + std::to_string(number) + " threads");
    mprotect(memory, kGuardBytes, PROT_NONE);  // at the low end, towards which the stack grows
    f->stack = static_cast<char*>(memory) + kGuardBytes;
  }
  // Stacks lie a power of two apart: unless their tops are spread, all of them use the same few cache lines.
  const std::size_t spread = number % 61 * 192;
  auto* top = reinterpret_cast<void**>(f->stack + kStackBytes - spread - 128);
  top -= reinterpret_cast<std::uintptr_t>(top) % 16 / sizeof(void*);
#if defined(__x86_64__)
  top[-1] = nullptr;  // where fiber_main would return to
  top[-2] = reinterpret_cast<void*>(&fiber_main);
  f->stack_pointer = top - 2 - kSavedWords;
  std::fill_n(static_cast<void**>(f->stack_pointer), kSavedWords, nullptr);
#else
  f->stack_pointer = top - kSavedWords;
  std::fill_n(static_cast<void**>(f->stack_pointer), kSavedWords, nullptr);
  static_cast<void**>(f->stack_pointer)[11] = reinterpret_cast<void*>(&fiber_main);  // x30
#endif
}

// ---- 4. barriers, warp operations, fences

void wait_in(Meet* meet, Fiber* self) {
  Mark* mark = &meet->marks[meet->turn % 2];
  release(mark);
  if (++meet->arrived < meet->expected) {
    self->state = State::waiting;
    self->next = nullptr;
    (meet->waiting ? meet->last->next : meet->waiting) = self;
    meet->last = self;
    give_way();
  } else {
    Fiber* first = meet->waiting;
    meet->waiting = nullptr;
    meet->arrived = 0;
    ++meet->turn;
    progress();
    while (first) {
      Fiber* f = first;
      first = f->next;
      make_ready(f);
    }
    // The last to come has no claim to go on first.
    make_ready(self);
    give_way();
  }
  acquire_mark(mark);
}

void diverged(const char* barrier, const Fiber* self, const Site& site, const Site& others) {
  stop(std::string("divergence: ") + who(self) + " is at " + barrier + " " + describe(site) +
       ", other threads of its CTA at " + describe(others));
}

void reject_ended(const char* barrier, const Cta* cta, const Site& site) {
  if (cta->ended) {
    stop("divergence: " + std::to_string(cta->ended) + " threads of CTA " + std::to_string(cta->index) +
         " ended without reaching " + barrier + " " + describe(site));
  }
}

bool same(const Site& a, const Site& b) {
  if (std::memcmp(&a, &b, sizeof(Site)) == 0)
    return true;  // nearly always: both point to the one description
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

// The lane whose value this one receives; itself where the operation leads out of its segment.
int source_lane(WarpOperation operation, int lane, int argument, int width) {
  const int first = lane / width * width, last = first + width - 1;
  switch (operation) {
    case WarpOperation::shuffle:
      return first + (argument & (width - 1));
    case WarpOperation::shuffle_xor:
      return (lane ^ argument) <= last ? lane ^ argument : lane;
    case WarpOperation::shuffle_down:
      return lane + argument <= last ? lane + argument : lane;
    case WarpOperation::shuffle_up:
      return lane - argument >= first ? lane - argument : lane;
    default:
      return lane;
  }
}

const char* name_of(WarpOperation operation) {
  constexpr const char* names[] = {"__syncwarp",       "__shfl_sync",    "__shfl_xor_sync",
                                   "__shfl_down_sync", "__shfl_up_sync", "__ballot_sync"};
  return names[static_cast<int>(operation)];
}

std::string hexadecimal(unsigned value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", value);
  return text;
}

// All have come: every lane gets its result.
void conclude(Warp* warp, const Meeting& meeting, Fiber* self) {
  uint64_t given[kWarp] = {};
  uint64_t ballot = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(meeting.mask >> lane & 1)) continue;
    given[lane] = warp->lanes[lane]->bits;
    ballot |= (given[lane] & 1) << lane;
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(meeting.mask >> lane & 1)) continue;
    Fiber* f = warp->lanes[lane];
    const int source = source_lane(meeting.operation, lane, f->argument, meeting.width);
    if (!(meeting.mask >> source & 1)) {
      stop(std::string("shuffle: ") + who(f) + " reads lane " + std::to_string(source) +
           ", which is not in the mask " + hexadecimal(meeting.mask) + " of " + name_of(meeting.operation) +
           " " + describe(meeting.site));
    }
    f->bits = meeting.operation == WarpOperation::ballot ? ballot : given[source];
    if (f != self) make_ready(f);
  }
}

}  // namespace

void wait_at(Barrier barrier, const Site& site) {
  Fiber* self = current;
  Cta* cta = self->cta;
  self->site = site;
  if (barrier == Barrier::block) {
    self->operation = "__syncthreads";
    reject_ended(self->operation, cta, site);
    if (cta->barrier.arrived == 0) cta->barrier_site = site;
    if (!same(site, cta->barrier_site)) diverged(self->operation, self, site, cta->barrier_site);
    wait_in(&cta->barrier, self);
    return;
  }
  // CTAs of one cluster may meet from different places in the source, threads of one CTA may not.
  self->operation = "cluster_sync";
  for (const Cta* other : cta->cluster->ctas) reject_ended(self->operation, other, site);
  if (cta->at_cluster_barrier == 0) cta->cluster_site = site;
  if (!same(site, cta->cluster_site)) diverged(self->operation, self, site, cta->cluster_site);
  cta->cluster->site = site;
  if (++cta->at_cluster_barrier == now->shape.block) cta->at_cluster_barrier = 0;
  wait_in(&cta->cluster->barrier, self);
}

uint64_t exchange(WarpOperation operation, unsigned mask, uint64_t bits, int argument, int width,
                  const Site& site) {
  Fiber* self = current;
  Warp* warp = self->warp;
  const unsigned lane = self->thread.x % kWarp, bit = 1u << lane;
  const auto fault = [&](const std::string& what) {
    stop("shuffle: " + who(self) + " (lane " + std::to_string(lane) + ") " + what + " at " +
         name_of(operation) + " " + describe(site));
  };
  self->site = site;
  self->operation = name_of(operation);
  self->bits = bits;
  self->argument = argument;
  if (!(mask & bit)) fault("is not in its own mask " + hexadecimal(mask));
  if (width < 1 || width > kWarp || (width & (width - 1)) != 0) {
    fault("has a width of " + std::to_string(width));
  }
  Meeting* meeting = nullptr;
  for (int i = 0; i < warp->open_count; ++i) {
    Meeting& open = warp->open[i];
    if (!(open.mask & bit)) continue;
    // Others already wait for this lane: it has to join them.
    if (open.mask != mask) {
      fault("comes with mask " + hexadecimal(mask) + ", others wait for it with mask " +
            hexadecimal(open.mask) + " at " + describe(open.site));
    }
    if (open.operation != operation || open.width != width || !same(open.site, site)) {
      fault(std::string("comes while others wait for it at ") + name_of(open.operation) + " " +
            describe(open.site));
    }
    meeting = &open;
  }
  if (!meeting) {
    for (int other = 0; other < kWarp; ++other) {
      if (!(mask >> other & 1)) continue;
      const Fiber* f = warp->lanes[other];
      if (!f || f->state == State::done) {
        fault("names lane " + std::to_string(other) + " in its mask " + hexadecimal(mask) + ", which " +
              (f ? "has ended" : "does not exist"));
      }
    }
    meeting = &warp->open[warp->open_count++];
    *meeting = Meeting{mask, 0, operation, width, site, &warp->marks[warp->turn++ % kMarks]};
  }
  Mark* mark = meeting->mark;
  const bool orders = operation == WarpOperation::sync;
  if (orders) release(mark);
  meeting->arrived |= bit;
  if (meeting->arrived != meeting->mask) {
    self->state = State::waiting;
    give_way();
  } else {
    const Meeting all = *meeting;
    *meeting = warp->open[--warp->open_count];
    progress();
    conclude(warp, all, self);
    if (all.mask != bit) {
      make_ready(self);
      give_way();
    }
  }
  if (orders) acquire_mark(mark);
  return self->bits;
}

void fence(bool device_wide) {
  // Threads of other CTAs are not within a block fence's reach, and this emulation orders those of its own
  // CTA by barriers alone.
  if (!device_wide || !with_tsan()) return;
  Clock* clock = current->clock;
  __tsan_acquire(&clock->fence_in);
  __tsan_release(&clock->fence_out);
}

namespace {

// Created by the host's thread, whose clock knows nothing that happened in this launch.
void* helper(void** thread) {
  if (!*thread) {
    tsan_switch(host_clock.thread);
    *thread = __tsan_create_fiber(0);
  }
  return *thread;
}

}  // namespace

namespace {

constexpr std::size_t kWords = 1 << 12;
const void* words[kWords];
Mark word_marks[kWords];

// The clock of a word that atomics work on: a mark of its own, as neighbours are often used for different
// things. A table of fixed size, since nothing may be allocated here.
Mark* mark_of(const void* address) {
  std::size_t place = reinterpret_cast<std::uintptr_t>(address) / sizeof(int) * 0x9e3779b97f4a7c15u >> 52;
  for (std::size_t tried = 0; tried < kWords; ++tried, place = (place + 1) % kWords) {
    if (!words[place]) words[place] = address;
    if (words[place] == address) return &word_marks[place];
  }
  stop("atomics on more than 4096 words are too many for ThreadSanitizer");
}

}  // namespace

void before_atomic(const void* address) {
  touch();
  progress();
  if (!with_tsan()) return;
  Clock* clock = current->clock;
  tsan_switch(helper(&clock->published));
  __tsan_acquire(&clock->fence_out);
  __tsan_release(mark_of(address));
  tsan_switch(clock->thread);
}

void after_atomic(const void* address) {
  if (!with_tsan()) return;
  Clock* clock = current->clock;
  tsan_switch(helper(&clock->collected));
  __tsan_acquire(mark_of(address));
  __tsan_release(&clock->fence_in);
  tsan_switch(clock->thread);
}

void acquire(const void* address) {
  if (with_tsan()) __tsan_acquire(mark_of(address));
}

void touch() {
  if (options.preemption == 0 || --touches_left > 0) return;
  touches_left = 1 + static_cast<int>(draw_below(2 * static_cast<uint64_t>(options.preemption)));
  Fiber* self = current;
  self->priority = draw();
  make_ready(self);
  give_way();
}

void check_aligned(const void* address, std::size_t bytes, const Site& site) {
  if (reinterpret_cast<std::uintptr_t>(address) % bytes) {
    stop("misaligned: " + who(current) + " accesses " + std::to_string(bytes) +
         " bytes at an address that is " + std::to_string(reinterpret_cast<std::uintptr_t>(address) % bytes) +
         " beyond a multiple, " + describe(site));
  }
}

void spin_pause(const Site& site) {
  Fiber* self = current;
  self->site = site;
  self->operation = "spin_pause";
  self->state = State::spinning;
  now->spinning.push_back(self);
  give_way();
}

// ---- 5. shared memory

namespace {

// Not memset: ThreadSanitizer knows that one.
void fill(char* data, std::size_t bytes) {
  const std::size_t words = bytes / sizeof(uint64_t);
  for (std::size_t i = 0; i < words; ++i) {
    reinterpret_cast<uint64_t*>(data)[i] = ~uint64_t{0};
    asm volatile("" ::: "memory");
  }
  for (std::size_t i = words * sizeof(uint64_t); i < bytes; ++i) {
    data[i] = static_cast<char>(0xff);
    asm volatile("" ::: "memory");
  }
}

char* new_block(std::size_t bytes) {
  char* data = nullptr;
  if (with_tsan()) {
    // ThreadSanitizer counts an allocation as a write by the thread that asks for it; and a reused address
    // would still carry the accesses of a CTA that has ended.
    if (arena_used + bytes + 64 > kArenaBytes)
      stop("this launch needs too much shared memory for ThreadSanitizer");
    data = arena + arena_used;
    arena_used += (bytes + 63) / 64 * 64;
  } else {
    data = static_cast<char*>(std::malloc(bytes));
  }
  fill(data, bytes);
  return data;
}

Block* find_block(Cta* cta, const void* key) {
  for (Block& block : cta->blocks) {
    if (block.key == key) return &block;
  }
  return nullptr;
}

char* block_of(Cta* cta, const void* key, std::size_t bytes) {
  if (Block* block = find_block(cta, key)) return block->data;
  if (cta->blocks.size() == kStaticArrays) stop("more than 64 shared arrays in one CTA");
  if (key != &kDynamicKey) {
    cta->static_bytes += (bytes + 15) / 16 * 16;
    const auto dynamic = static_cast<std::size_t>(now->shape.dynamic_shared_bytes);
    if (cta->static_bytes > static_cast<std::size_t>(options.static_shared_bytes) ||
        cta->static_bytes + dynamic > static_cast<std::size_t>(options.shared_bytes)) {
      stop("shared memory: " + std::to_string(cta->static_bytes) + " bytes in arrays and " +
           std::to_string(dynamic) + " dynamic ones are more than the device has");
    }
  }
  cta->blocks.push_back({key, new_block(bytes), bytes});
  return cta->blocks.back().data;
}

void free_blocks(Cta* cta) {
  for (const Block& block : cta->blocks) {
    if (with_tsan()) continue;
    fill(block.data, block.bytes);  // who still reads it shall see it
    std::free(block.data);
  }
  cta->blocks.clear();
}

}  // namespace

void* shared_block(const void* key, std::size_t bytes) {
  return block_of(current->cta, key, bytes);
}

void* dynamic_shared_block() {
  return block_of(current->cta, &kDynamicKey, static_cast<std::size_t>(now->shape.dynamic_shared_bytes));
}

int cluster_rank() {
  return current->cta->rank;
}
int cluster_size() {
  return now->shape.cluster;
}

void* map_shared(void* pointer, int rank, const Site& site) {
  Cta* cta = current->cta;
  if (rank < 0 || rank >= now->shape.cluster) {
    stop("cluster_map: " + who(current) + " asks for rank " + std::to_string(rank) + " of " +
         std::to_string(now->shape.cluster) + ", " + describe(site));
  }
  Cta* other = cta->cluster->ctas[static_cast<std::size_t>(rank)];
  if (other->live == 0) {
    stop("cluster_map: " + who(current) + " maps memory of CTA " + std::to_string(other->index) +
         ", which has ended, " + describe(site));
  }
  if (other != cta && cta->cluster->barrier.turn == 0) {
    stop("cluster_map: " + who(current) + " maps memory of CTA " + std::to_string(other->index) +
         " before any cluster_sync: it may not have started, " + describe(site));
  }
  const auto* byte = static_cast<const char*>(pointer);
  for (const Block& block : cta->blocks) {
    if (byte >= block.data && byte < block.data + block.bytes) {
      return block_of(other, block.key, block.bytes) + (byte - block.data);
    }
  }
  stop("cluster_map: " + who(current) + " maps what is not shared memory of its CTA, " + describe(site));
}

// ---- 6. launch

namespace {

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
    f->clock = with_tsan()
                   ? &clocks[cta->index * static_cast<std::size_t>(threads) + static_cast<std::size_t>(t)]
                   : nullptr;
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

void prepare_sanitizers(std::size_t threads) {
  if (with_tsan()) {
    if (!arena) {
      arena = static_cast<char*>(mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    }
    arena_used = 0;
    std::fill_n(words, kWords, nullptr);
    if (!host_clock.thread) host_clock.thread = __tsan_get_current_fiber();
    // A thread of one launch never continues one that ended in it: that would order the two.
    while (clocks.size() < threads) {
      clocks.emplace_back();
      clocks.back().thread = __tsan_create_fiber(0);
    }
  }
  host.clock = &host_clock;
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
