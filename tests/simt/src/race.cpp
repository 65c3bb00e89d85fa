// race.cpp - data-race detector for the simulator: what compute-sanitizer's racecheck does on a GPU for
// shared memory, here for global memory and across blocks too, in any order of threads.
//
// Kernels are compiled with -fsanitize=thread -DSIMT_RACE; these files, compiled without, answer the __tsan_*
// calls instead of libtsan (tsan_entry.cpp). Two accesses of different threads to one byte, at least one of
// them a plain write, must be ordered by a barrier of the block, by a warp collective, or by a chain of
// fences: write, __threadfence, atomic; then another thread's atomic on the same variable, __threadfence,
// read. Also reported: a kernel that touches memory which is not device memory, such as a host pointer.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <vector>

#include "race_check.h"
#include "race_order.h"

// Set by the linker.
extern "C" char __executable_start[], _end[];

namespace simt::race {
namespace {

// Bytes that share a history.
constexpr unsigned kGranule = 4;
// The accesses of a granule that are remembered. Older ones are forgotten: races can be missed, not invented.
constexpr unsigned kRemembered = 4;

struct Granule {
  Access recent[kRemembered];
};

struct Region {
  uintptr_t end;
  bool shared;
  std::vector<Granule> granules;
};

// An atomic variable: what its writers had released, and the time of each thread's last use.
struct AtomicState {
  Knowledge released;
  std::map<unsigned, unsigned> last_use;
};

std::map<uintptr_t, AtomicState> atomics;
std::map<uintptr_t, Region> regions;
uintptr_t image_base = 0;

unsigned owner_of(const Thread& thread) { return thread.block->id * kMaxThreads + thread.id; }

// A plain access after the thread's own later atomic on that variable: how a last block resets its counter.
bool follows_own_atomic(const Access& access, unsigned owner, uintptr_t address) {
  const auto variable = atomics.find(address);
  if (!access.atomic || variable == atomics.end()) return false;
  const auto mine = variable->second.last_use.find(owner);
  return mine != variable->second.last_use.end() && mine->second >= access.time;
}

[[noreturn]] void report(const char* what, const char* memory) {
  fail(what, {memory, 0});
  stop();
}

const char* verb(bool write, bool atomic) {
  if (atomic) return "atomic write";
  return write ? "write" : "read";
}

[[noreturn]] void report_race(const Access& mine, const Access& earlier, size_t offset, const char* memory) {
  char what[256];
  std::snprintf(what, sizeof what,
                "data race on %s memory +%zu: %s (pc 0x%x) and earlier %s by block %u thread %u (pc 0x%x)",
                memory, offset, verb(mine.write, mine.atomic), mine.pc, verb(earlier.write, earlier.atomic),
                earlier.owner / kMaxThreads, earlier.owner % kMaxThreads, earlier.pc);
  report(what, memory);
}

bool conflict(const Access& mine, const Access& earlier) {
  return (earlier.bytes & mine.bytes) && (earlier.write || mine.write) && !(earlier.atomic && mine.atomic);
}

// Checks the access against the granule's history, then records it there: over an entry that it makes
// redundant, or in a free slot, or in place of a random entry.
void record(Granule& granule, const Access& mine, uintptr_t address, size_t offset, const char* memory) {
  Access* slot = nullptr;
  for (Access& earlier : granule.recent) {
    if (!earlier.bytes) {
      if (!slot) slot = &earlier;
      continue;
    }
    if (earlier.owner == mine.owner) {
      const bool weaker = earlier.write <= mine.write && earlier.atomic == mine.atomic;
      if (earlier.bytes == mine.bytes && weaker) slot = &earlier;
      continue;
    }
    const bool ordered = happened_before(earlier, *machine.self);
    if (conflict(mine, earlier) && !ordered && !follows_own_atomic(earlier, mine.owner, address)) {
      report_race(mine, earlier, offset, memory);
    }
    const bool redundant = ordered && (earlier.bytes & ~mine.bytes) == 0 && (mine.write || !earlier.write);
    if (redundant && !slot) slot = &earlier;
  }
  if (!slot) slot = &granule.recent[random_below(kRemembered)];
  *slot = mine;
}

// The thread's own stack, kernel parameters, and the image of the program (constants, __constant__
// variables).
bool is_private(uintptr_t address) {
  const uintptr_t image = number(__executable_start);
  return address - number(machine.current->stack) < machine.current->size ||
         address - number(machine.arguments) < machine.arguments_size ||
         address - image < number(_end) - image;
}

}  // namespace

void check_access(uintptr_t address, size_t size, bool write, bool atomic, void* return_address) {
  if (!machine.in_kernel || is_private(address)) return;
  OutsideKernel outside;
  const unsigned pc = unsigned(number(return_address) - image_base);
  char what[128];
  auto found = regions.upper_bound(address);
  if (found == regions.begin() || address >= (--found)->second.end) {
    std::snprintf(what, sizeof what, "access to memory that is not the device's, pc 0x%x", pc);
    report(what, "global");
  }
  Region& region = found->second;
  const char* memory = region.shared ? "shared" : "global";
  if (address + size > region.end) {
    std::snprintf(what, sizeof what, "%s access past the end of its allocation, pc 0x%x", memory, pc);
    report(what, memory);
  }
  const uintptr_t first = address - found->first;
  const unsigned owner = owner_of(*machine.self);
  for (uintptr_t at = first / kGranule * kGranule; at < first + size; at += kGranule) {
    unsigned char bytes = 0;
    for (unsigned i = 0; i < kGranule; ++i) {
      if (at + i >= first && at + i < first + size) bytes |= static_cast<unsigned char>(1u << i);
    }
    record(region.granules[at / kGranule], {now, owner, pc, bytes, write, atomic}, found->first + at, at,
           memory);
  }
}

void launch(size_t block_count, unsigned threads) {
  blocks.assign(block_count, {});
  atomics.clear();
  threads_per_block = threads;
  now = 1;
  for (auto& [start, region] : regions) std::fill(region.granules.begin(), region.granules.end(), Granule{});
  Dl_info info;
  if (!image_base && dladdr(reinterpret_cast<void*>(&launch), &info)) image_base = number(info.dli_fbase);
}

void barrier(Block& block) {
  BlockState& state = state_of(block);
  state.barrier_time = ++now;
  ThreadState all;
  for (const ThreadState& thread : state.threads) join_knowledge(all, thread);
  for (ThreadState& thread : state.threads) assign_knowledge(thread, all);
}

void warp(Thread* const* lanes) {
  const unsigned time = ++now;
  ThreadState met;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!lanes[lane]) continue;
    const ThreadState& thread = state_of(*lanes[lane]);
    join_knowledge(met, thread);
    for (unsigned i = 0; i < kWarp; ++i) met.seen[i] = std::max(met.seen[i], thread.seen[i]);
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (lanes[lane]) met.seen[lane] = time;
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (lanes[lane]) state_of(*lanes[lane]) = met;
  }
}

// Acquires what earlier atomics read, and lets later atomics hand on all that is known so far.
void fence() {
  const Thread& thread = *machine.self;
  ThreadState& mine = state_of(thread);
  BlockState& block = state_of(*thread.block);
  Fence fence{++now, thread.id, block.barrier_time, {}};
  std::memcpy(fence.seen, mine.seen, sizeof fence.seen);
  block.fences.push_back(fence);
  join(mine.known, mine.pending);
  mine.known[thread.block->id] = unsigned(block.fences.size());
  mine.released = mine.known;
}

void atomic(const void* address, size_t size) {
  check_access(number(address), size, true, true, __builtin_return_address(0));
  ThreadState& mine = state_of(*machine.self);
  AtomicState& variable = atomics[number(address)];
  join(mine.pending, variable.released);
  join(variable.released, mine.released);
  variable.last_use[owner_of(*machine.self)] = now;
}

void track(const void* start, size_t size, bool shared) {
  const size_t granules = (size + kGranule - 1) / kGranule;
  regions[number(start)] = {number(start) + size, shared, std::vector<Granule>(granules)};
}

void forget(const void* start) { regions.erase(number(start)); }

}  // namespace simt::race
