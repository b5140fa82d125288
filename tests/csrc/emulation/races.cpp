// What CUDA orders, told to ThreadSanitizer: fences and atomics here, barriers where they are.
#include <sys/mman.h>

#include <deque>

#include "fibers.h"

namespace sapag::emulation {

using namespace internal;

Clock internal::host_clock;

namespace {

constexpr std::size_t kArenaBytes = std::size_t{1} << 30;
std::deque<Clock> clocks;
char* arena = nullptr;
std::size_t arena_used = 0;

// Created by the host's thread, whose clock knows nothing that happened in this launch.
void* helper(void** thread) {
  if (!*thread) {
    tsan_switch(host_clock.thread);
    *thread = __tsan_create_fiber(0);
  }
  return *thread;
}

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

void fence(bool device_wide) {
  // Threads of other CTAs are not within a block fence's reach, and this emulation orders those of its own
  // CTA by barriers alone.
  if (!device_wide || !with_tsan()) return;
  Clock* clock = current->clock;
  __tsan_acquire(&clock->fence_in);
  __tsan_release(&clock->fence_out);
}

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

void internal::prepare_sanitizers(std::size_t threads) {
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

Clock* internal::clock_of(std::size_t thread) {
  return with_tsan() ? &clocks[thread] : nullptr;
}

// ThreadSanitizer counts an allocation as a write by the thread that asks for it; and a reused address would
// still carry the accesses of a CTA that has ended.
char* internal::new_arena_block(std::size_t bytes) {
  if (arena_used + bytes + 64 > kArenaBytes)
    stop("this launch needs too much shared memory for ThreadSanitizer");
  char* data = arena + arena_used;
  arena_used += (bytes + 63) / 64 * 64;
  return data;
}

}  // namespace sapag::emulation
