// The scheduler's state, and the ways to give way without a barrier: preemption at a memory access, a spin.
#include <cstdio>
#include <cstdlib>

#include "fibers.h"

namespace sapag::emulation {

Thread* here = nullptr;
Dimensions dimensions;

namespace internal {

Options options;
uint64_t random_state = 0;
int touches_left = 0;
Launch* now = nullptr;
Fiber* current = nullptr;
Fiber* last_ended = nullptr;
Fiber host;
const void* host_bottom = nullptr;
std::size_t host_size = 0;

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

std::string hexadecimal(unsigned value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", value);
  return text;
}

}  // namespace internal

using namespace internal;

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

}  // namespace sapag::emulation
