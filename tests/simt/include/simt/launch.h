// launch.h - runs one grid to its end, one launch at a time in the process.
#pragma once

#include <map>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>

#include "simt/collectives.h"
#include "simt/graph.h"
#include "simt/shared_memory.h"

namespace simt {

// The body of every fiber: runs one thread after the other. A thread that never waits costs no switch,
// because the next fresh thread runs on the same stack.
inline void fiber_main() {
  arrive(machine.current);
  for (;;) {
    Fiber* fiber = machine.current;
    Thread* thread = fiber->thread;
    enter(thread);
    machine.in_kernel = true;
    machine.call(machine.arguments);
    machine.in_kernel = false;

    thread->done = true;
    thread->fiber = nullptr;
    fiber->thread = nullptr;
    machine.idle.push_back(fiber);
    --thread->block->live;
    machine.spins = 0;
    complete_barrier(*thread->block);

    Thread* next = pick();
    Fiber* to = &machine.main;
    if (next) to = next->fiber ? next->fiber : acquire(next);
    if (to != fiber) jump(to);
  }
}

inline uint3 unravel(uint64_t linear, dim3 extent) {
  return {unsigned(linear % extent.x), unsigned(linear / extent.x % extent.y),
          unsigned(linear / extent.x / extent.y)};
}

inline void start_block(unsigned id, dim3 grid, dim3 block_extent, size_t dynamic_bytes) {
  const unsigned threads = machine.threads_per_block;
  Block* block = new Block;
  block->id = id;
  block->index = unravel(id, grid);
  block->live = threads;
  block->threads.resize(threads);
  std::vector<Thread*> fresh;
  for (unsigned i = 0; i < threads; ++i) {
    Thread& thread = block->threads[i];
    thread.block = block;
    thread.id = i;
    thread.warp = i / kWarp;
    thread.lane = i % kWarp;
    thread.index = unravel(i, block_extent);
    fresh.push_back(&thread);
  }
  machine.active.push_back(block);
  stats.threads += threads;
  block->dynamic_shared = allocate_shared(dynamic_bytes, alignof(std::max_align_t));
  make_ready(fresh);
}

inline void end_block(Block* block) {
  free_shared(block->dynamic_shared);
  for (void* memory : block->shared) free_shared(memory);
  if (machine.self && machine.self->block == block) machine.self = nullptr;
  delete block;
}

// Frees the blocks whose threads have all returned; false if there was none.
inline bool end_finished_blocks() {
  const size_t before = machine.active.size();
  const auto finished = [](Block* block) {
    if (block->live) return false;
    end_block(block);
    return true;
  };
  auto& active = machine.active;
  active.erase(std::remove_if(active.begin(), active.end(), finished), active.end());
  return active.size() != before;
}

// Discards, after a fault, all that is suspended, so that the next launch starts on a clean machine.
inline void abandon() {
  for (Block* block : machine.active) end_block(block);
  machine.active.clear();
  machine.ready.clear();
  machine.head = 0;
  machine.idle.clear();
  for (Fiber& fiber : machine.fibers) {
    rewind(&fiber);
    machine.idle.push_back(&fiber);
  }
}

inline std::string deadlock_report() {
  std::map<std::string, int> waiting;
  for (const Block* block : machine.active) {
    for (const Thread& thread : block->threads) {
      if (thread.op) ++waiting[std::string(thread.op) + " at " + text(thread.at)];
    }
  }
  std::string report = "deadlock (divergent collective):";
  for (const auto& [place, threads] : waiting) {
    report += " " + std::to_string(threads) + " threads in " + place + ";";
  }
  return report;
}

inline std::vector<unsigned> block_order(size_t blocks) {
  std::vector<unsigned> order(blocks);
  for (size_t i = 0; i < blocks; ++i) order[i] = unsigned(options.seed == 1 ? blocks - 1 - i : i);
  if (random_order()) shuffle(order);
  return order;
}

// The limits of all GPUs that CUDA 13 supports, but for shared memory: GPUs before sm_90 have less.
inline void check_configuration(dim3 grid, dim3 block, size_t dynamic_bytes) {
  constexpr unsigned kMaxGridX = 0x7fffffff, kMaxGridYZ = 65535, kMaxBlockZ = 64;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const bool fits = threads <= kMaxThreads && block.z <= kMaxBlockZ && grid.x <= kMaxGridX &&
                    grid.y <= kMaxGridYZ && grid.z <= kMaxGridYZ && dynamic_bytes <= kMaxSharedBytes;
  if (!blocks || !threads || !fits) throw Error("invalid launch configuration");
}

// The stacks of earlier launches are used again unless another size is asked for.
inline void keep_only_stacks_of(size_t size) {
  if (machine.fibers.empty() || machine.fibers.front().size == size) return;
  machine.idle.clear();
  machine.fibers.clear();
}

inline void prepare(dim3 grid, dim3 block, void (*call)(void*), void* arguments, size_t arguments_size) {
  keep_only_stacks_of(options.stack);
  machine.call = call;
  machine.arguments = arguments;
  machine.arguments_size = arguments_size;
  machine.threads_per_block = block.x * block.y * block.z;
  machine.current = &machine.main;
  machine.random = options.seed * 0x9E3779B97F4A7C15ull + 1;
  machine.spins = 0;
  machine.error.clear();
  gridDim = grid;
  blockDim = block;
  race::launch(size_t(grid.x) * grid.y * grid.z, machine.threads_per_block);
}

inline void run(dim3 grid, dim3 block, size_t dynamic_bytes) {
  const std::vector<unsigned> order = block_order(size_t(grid.x) * grid.y * grid.z);
  const size_t resident = std::max(1u, options.resident);
  size_t next = 0;
  while (machine.error.empty() && (next < order.size() || !machine.active.empty())) {
    while (next < order.size() && machine.active.size() < resident) {
      start_block(order[next++], grid, block, dynamic_bytes);
    }
    dispatch();
    const bool progress = end_finished_blocks();
    if (!progress && machine.error.empty()) machine.error = deadlock_report();
  }
  if (!machine.error.empty()) throw Error(machine.error);
}

// Held by launch(). Other OS threads wait for it; a kernel that launches gets an error.
class Turn {
 public:
  Turn() {
    if (inside()) {
      OutsideKernel outside;
      fail("launch from inside a kernel", {"launch", 0});
      stop();
    }
    lock_ = std::unique_lock(mutex());
    inside() = true;
  }
  ~Turn() { inside() = false; }

 private:
  static std::mutex& mutex() {
    static std::mutex one_at_a_time;
    return one_at_a_time;
  }
  static bool& inside() {
    thread_local bool launching = false;
    return launching;
  }
  std::unique_lock<std::mutex> lock_;
};

// Launches with arguments that are bound already.
template <class Call>
void run_call(Call call, dim3 grid, dim3 block, size_t dynamic_bytes) {
  const auto apply = [](void* arguments) {
    Call& bound = *static_cast<Call*>(arguments);
    std::apply(bound.first, bound.second);
  };
  Turn turn;
  check_configuration(grid, block, dynamic_bytes);
  try {
    prepare(grid, block, apply, &call, sizeof call);
    run(grid, block, dynamic_bytes);
  } catch (...) {
    abandon();
    machine.current = nullptr;
    machine.self = nullptr;
    throw;
  }
  machine.current = nullptr;
  machine.self = nullptr;
}

// Runs the kernel for every thread of the grid and returns when all are done, or adds it to the graph that is
// being captured. Throws Error for a fault.
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_bytes, Args&&... args) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...),
                "kernel parameters are copied byte by byte");
  static_assert((sizeof(Parameters) + ... + 0) <= kMaxParameterBytes, "kernel parameters are too large");
  using Call = std::pair<void (*)(Parameters...), std::tuple<Parameters...>>;
  const Call call(kernel, std::tuple<Parameters...>(static_cast<Parameters>(args)...));
  if (Graph* graph = Graph::recording()) {
    return graph->add([=] { run_call(call, grid, block, dynamic_bytes); });
  }
  run_call(call, grid, block, dynamic_bytes);
}

}  // namespace simt
