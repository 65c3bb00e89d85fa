// scheduler.h - which thread runs next, and how a launch is given up.
//
// Order by index and reversed order are cheap and the same every time; random orders with run-ahead turn
// missing barriers into wrong numbers.
#pragma once

#include <algorithm>
#include <utility>

#include "simt/fiber.h"

namespace simt {

constexpr uint64_t kFirstRandomSeed = 2;
// The most atomics and fences without a barrier, a collective or a return in between.
constexpr uint64_t kLivelockSpins = 20'000'000;

inline bool random_order() { return options.seed >= kFirstRandomSeed; }

template <class T>
void shuffle(std::vector<T>& items) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random_below(i)]);
}

// A fault ends a launch in two steps, fail(...) and then stop(), because stop() abandons this stack: no
// object on it that owns heap memory, such as a message, may be alive by then.
inline void fail(const std::string& what, Where at) {
  machine.error = what + " [" + text(*machine.self) + " at " + text(at) + "]";
  machine.ready.clear();
  machine.head = 0;
}

[[noreturn]] inline void stop() {
  for (;;) jump(&machine.main);
}

// For the simulator's own limits, which are reached on a thread's stack or on the caller's.
[[noreturn]] inline void out_of(const char* what) {
  if (machine.current == &machine.main) throw Error(std::string("simt: out of ") + what);
  fail(std::string("simt: out of ") + what, {"simt", 0});
  stop();
}

// Gives the thread a stack.
inline Fiber* acquire(Thread* thread) {
  if (machine.idle.empty()) {
    Fiber* fresh = create_fiber();
    if (!fresh) out_of("address space for stacks");
    machine.idle.push_back(fresh);
  }
  Fiber* fiber = machine.idle.back();
  machine.idle.pop_back();
  fiber->thread = thread;
  thread->fiber = fiber;
  return fiber;
}

// Takes any thread of the queue or, half of the time, goes on with the group that was released last: threads
// that run far ahead of the others find the missing barriers.
inline Thread* pick_at_random() {
  const size_t queued = machine.ready.size() - machine.head;
  const size_t last = machine.ready.size() - 1;
  size_t chosen = random_below(2) ? last : machine.head + random_below(queued);
  const bool other_block = machine.self && machine.ready[chosen]->block != machine.self->block;
  if (machine.active.size() > 1 && other_block && random_below(4)) chosen = last;
  std::swap(machine.ready[chosen], machine.ready[last]);
  Thread* thread = machine.ready.back();
  machine.ready.pop_back();
  return thread;
}

// Null when nobody can run: all blocks are done, or all threads wait.
inline Thread* pick() {
  if (machine.head == machine.ready.size()) {
    machine.ready.clear();
    machine.head = 0;
    return nullptr;
  }
  if (random_order()) return pick_at_random();
  return machine.ready[machine.head++];
}

// Lets the next thread run; returns when the caller is next.
inline void dispatch() {
  Thread* next = pick();
  Fiber* to = &machine.main;
  if (next) to = next->fiber ? next->fiber : acquire(next);
  if (to != machine.current) {
    jump(to);
  } else if (to->thread) {
    enter(to->thread);
  }
}

inline void make_ready(std::vector<Thread*>& threads) {
  if (options.seed == 1) std::reverse(threads.begin(), threads.end());
  if (random_order()) shuffle(threads);
  machine.ready.insert(machine.ready.end(), threads.begin(), threads.end());
}

inline void yield() {
  OutsideKernel outside;
  machine.ready.push_back(machine.self);
  dispatch();
}

// Called at atomics and fences: other threads may run here, and an endless spin loop is noticed.
inline void maybe_yield() {
  if (!machine.self) return;
  OutsideKernel outside;
  if (++machine.spins > kLivelockSpins) {
    fail("livelock: 20 million atomics and fences without progress", {"atomic", 0});
    stop();
  }
  const bool interleave = machine.active.size() > 1 || random_order();
  // A single block in a fixed order yields rarely, only so that its spin loops end.
  if (interleave ? random_below(4) == 0 : machine.spins % 1024 == 0) yield();
}

}  // namespace simt
