// The switch between two stacks: the callee-saved registers and the stack pointer, nothing else.
#include <sys/mman.h>

#include <cstdlib>

#include "fibers.h"

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

namespace sapag::emulation::internal {

namespace {

constexpr std::size_t kGuardBytes = 4096;

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

}  // namespace

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

}  // namespace sapag::emulation::internal
