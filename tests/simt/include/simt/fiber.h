// fiber.h - stacks, and the switch between them. Every CUDA thread is a fiber; all of them run on the one OS
// thread that called launch().
//
// On x86-64 a switch is fifteen instructions; elsewhere it is swapcontext(), which enters the kernel each
// time. AddressSanitizer is told of every switch; otherwise the new stack would look like a wild pointer.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>

#include "simt/machine.h"

#if SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

constexpr size_t kGuardBytes = 4096;

void fiber_main();

inline Fiber::~Fiber() {
  if (mapping) munmap(mapping, mapping_size);
}

#if !SIMT_USE_UCONTEXT
// Pushes the callee-saved registers, stores the stack pointer in *from, and goes on where `to` was stored.
// The optimiser must not look inside (noipa): every global may have changed on return.
#ifdef __clang__
#define SIMT_OPAQUE naked, noinline
#else
#define SIMT_OPAQUE naked, noinline, noipa
#endif
__attribute__((SIMT_OPAQUE,
               no_sanitize("address", "thread", "undefined"))) inline void switch_stack(void** /*from: rdi*/,
                                                                                        void* /*to: rsi*/) {
  asm volatile(
      "pushq %rbp\n\t"
      "pushq %rbx\n\t"
      "pushq %r12\n\t"
      "pushq %r13\n\t"
      "pushq %r14\n\t"
      "pushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq %rsi, %rsp\n\t"
      "popq %r15\n\t"
      "popq %r14\n\t"
      "popq %r13\n\t"
      "popq %r12\n\t"
      "popq %rbx\n\t"
      "popq %rbp\n\t"
      "ret");
}
#endif

// Makes `thread` the running one.
SIMT_RAW inline void enter(Thread* thread) {
  machine.self = thread;
  threadIdx = thread->index;
  blockIdx = thread->block->index;
}

// The first call on a stack that was just switched to. Reads the bounds of the caller's stack, which the
// simulator did not make.
SIMT_RAW inline void arrive(Fiber* fiber) {
#if SIMT_ASAN
  const void* stack = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fiber->fake_stack, &stack, &size);
  if (machine.previous == &machine.main) {
    machine.main.stack = const_cast<char*>(static_cast<const char*>(stack));
    machine.main.size = size;
  }
#endif
  if (fiber->thread) enter(fiber->thread);
}

// Suspends the running fiber and resumes `to`; returns when somebody jumps back.
SIMT_RAW inline void jump(Fiber* to) {
  Fiber* from = machine.current;
  machine.previous = from;
  machine.current = to;
  ++stats.switches;
#if SIMT_ASAN
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->size);
#endif
#if SIMT_USE_UCONTEXT
  swapcontext(&from->context, &to->context);
#else
  switch_stack(&from->stack_pointer, to->stack_pointer);
#endif
  arrive(from);
}

// Makes the fiber start in fiber_main() when it is resumed next, and abandons what was suspended on it.
inline void rewind(Fiber* fiber) {
#if SIMT_ASAN
  ASAN_UNPOISON_MEMORY_REGION(fiber->stack, fiber->size);
#endif
  fiber->fake_stack = nullptr;
  fiber->thread = nullptr;
#if SIMT_USE_UCONTEXT
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack;
  fiber->context.uc_stack.ss_size = fiber->size;
  makecontext(&fiber->context, fiber_main, 0);
#else
  // As switch_stack leaves it: six registers, the address to return to, and above it a null return address,
  // where debuggers stop to unwind.
  constexpr ptrdiff_t kRegisters = 6;
  void** top = reinterpret_cast<void**>(fiber->stack + fiber->size);
  top[-1] = nullptr;
  top[-2] = reinterpret_cast<void*>(&fiber_main);
  fiber->stack_pointer = top - 2 - kRegisters;
#endif
}

// A new stack; only the pages that are touched take memory. Null when there is no address space left.
inline Fiber* create_fiber() {
  const size_t size = options.stack + kGuardBytes;
  void* mapping =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  mprotect(mapping, kGuardBytes, PROT_NONE);
  Fiber* fiber = &machine.fibers.emplace_back();
  fiber->mapping = mapping;
  fiber->mapping_size = size;
  fiber->stack = static_cast<char*>(mapping) + kGuardBytes;
  fiber->size = options.stack;
  rewind(fiber);
  return fiber;
}

}  // namespace simt
