// machine.h - the state of the simulated GPU: threads, blocks, fibers, and the one machine that owns them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "simt/language.h"
#include "simt/race_hooks.h"

#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#include <ucontext.h>
#define SIMT_USE_UCONTEXT 1
#else
#define SIMT_USE_UCONTEXT 0
#endif

namespace simt {

constexpr unsigned kWarp = 32;
constexpr unsigned kFullMask = ~0u;
constexpr unsigned kMaxThreads = 1024;  // of a block
constexpr size_t kMaxSharedBytes = 227 * 1024;
constexpr size_t kMaxParameterBytes = 32764;
// The widest value that a shuffle carries.
constexpr size_t kLaneBytes = 16;

// Thrown by launch() for a fault in a kernel: divergence, deadlock, livelock, race. The next launch works.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// How the next launches run. Set it between launches, not while one runs.
struct Options {
  // Order of threads and blocks. 0: by index. 1: reversed. 2 and more: random, with random run-ahead and
  // with yields at atomics and fences.
  uint64_t seed = 0;
  // Blocks in flight at once. Blocks that wait for each other (a grid barrier) need as many as do so.
  unsigned resident = 1;
  // Bytes of stack of a thread.
  size_t stack = 128 << 10;
  // Lets __syncthreads pass after threads of the block have returned, which hardware tolerates.
  bool allow_exited = false;
};

struct Stats {
  uint64_t threads = 0;
  uint64_t switches = 0;
  uint64_t collectives = 0;
};

struct Where {
  const char* file;
  int line;
};

struct Fiber;

struct Thread {
  uint3 index;
  unsigned id;  // index made linear
  unsigned warp;
  unsigned lane;
  Block* block;
  Fiber* fiber = nullptr;  // null until it runs for the first time
  bool done = false;

  // The collective that it waits in; op is null while it runs. A mask of 0 is a barrier of the whole block.
  const char* op = nullptr;
  Where at{};
  unsigned mask = 0;
  int argument = 0;
  int width = kWarp;
  void (*combine)(Thread* const* lanes, unsigned mask) = nullptr;
  alignas(16) unsigned char input[kLaneBytes];
  alignas(16) unsigned char output[kLaneBytes];
};

struct Block {
  uint3 index;
  unsigned id;  // index made linear
  std::vector<Thread> threads;
  unsigned live = 0;     // threads that have not returned
  unsigned waiting = 0;  // threads in a barrier
  void* dynamic_shared = nullptr;
  std::vector<void*> shared;  // by the id of their SmemSite
};

struct Fiber {
  char* stack = nullptr;  // lowest usable byte; a guard page is below
  size_t size = 0;
  Thread* thread = nullptr;
  void* mapping = nullptr;
  size_t mapping_size = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
#if SIMT_USE_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif

  Fiber() = default;
  Fiber(const Fiber&) = delete;
  ~Fiber();
};

struct Machine {
  Thread* self = nullptr;  // the thread that runs now
  Fiber main;              // stands for the caller of launch()
  Fiber* current = nullptr;
  Fiber* previous = nullptr;  // the fiber that ran before current
  std::deque<Fiber> fibers;
  std::vector<Fiber*> idle;

  std::vector<Thread*> ready;  // the run queue is ready[head..]
  size_t head = 0;
  std::vector<Block*> active;
  unsigned threads_per_block = 0;
  int shared_sites = 0;

  void (*call)(void*) = nullptr;  // call(arguments) runs the kernel
  void* arguments = nullptr;
  size_t arguments_size = 0;

  std::string error;  // of this launch; empty while all is well
  uint64_t random = 1;
  uint64_t spins = 0;      // atomics and fences since the last progress
  bool in_kernel = false;  // kernel code runs, not the simulator's own
};

inline Options options;
inline Stats stats;
inline Machine machine;

// Stands in everything that kernels call: accesses of the simulator are none of the kernel's.
struct OutsideKernel {
  OutsideKernel() { machine.in_kernel = false; }
  ~OutsideKernel() { machine.in_kernel = true; }
};

// A number in [0, n).
inline unsigned random_below(size_t n) {
  machine.random ^= machine.random << 13;
  machine.random ^= machine.random >> 7;
  machine.random ^= machine.random << 17;
  return static_cast<unsigned>((machine.random >> 11) % n);
}

inline std::string text(uint3 index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z) + ")";
}

inline std::string text(const Thread& thread) {
  return "block " + text(thread.block->index) + " thread " + text(thread.index);
}

inline std::string text(const Where& at) {
  return std::string(at.file ? at.file : "?") + ":" + std::to_string(at.line);
}

}  // namespace simt
