// race_order.h - which accesses are ordered before which: the clocks of the race detector (race.cpp).
//
// Time is one counter of barriers, warp collectives and fences. Inside a block, a barrier orders everything
// before it; inside a warp, `seen` tells per lane what a warp collective has ordered. Across blocks, a thread
// knows of some fences of the others, handed on by atomics.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "simt/simt.h"

namespace simt::race {

struct Access {
  unsigned time;
  unsigned owner;       // block id * kMaxThreads + thread id
  unsigned pc;          // offset in the executable, for addr2line
  unsigned char bytes;  // bit i: byte i of the granule; 0: this slot is empty
  bool write;
  bool atomic;
};

// Block id -> how many of that block's fences are known to have happened.
using Knowledge = std::map<unsigned, unsigned>;

struct ThreadState {
  unsigned seen[kWarp] = {};  // per lane of the warp: its accesses before this time are known
  Knowledge known;            // acquired by a fence
  Knowledge released;         // what the next atomic hands on: known at the last fence
  Knowledge pending;          // handed over by atomics, acquired by the next fence
};

struct Fence {
  unsigned time;
  unsigned thread;
  unsigned barrier_time;  // of the block's last barrier before it
  unsigned seen[kWarp];
};

struct BlockState {
  unsigned barrier_time = 0;
  std::vector<ThreadState> threads;  // empty until the first one matters
  std::vector<Fence> fences;
};

inline std::vector<BlockState> blocks;
inline unsigned now = 1;
inline unsigned threads_per_block = 1;

inline BlockState& state_of(const Block& block) {
  BlockState& state = blocks[block.id];
  if (state.threads.empty()) state.threads.resize(threads_per_block);
  return state;
}

inline ThreadState& state_of(const Thread& thread) { return state_of(*thread.block).threads[thread.id]; }

inline void join(Knowledge& into, const Knowledge& from) {
  for (const auto& [block, fences] : from) {
    unsigned& mine = into[block];
    mine = std::max(mine, fences);
  }
}

inline void join_knowledge(ThreadState& into, const ThreadState& from) {
  join(into.known, from.known);
  join(into.released, from.released);
  join(into.pending, from.pending);
}

inline void assign_knowledge(ThreadState& to, const ThreadState& from) {
  to.known = from.known;
  to.released = from.released;
  to.pending = from.pending;
}

// Whether a fence that the running thread knows of came after the access.
inline bool fence_covers(const Fence& fence, const Access& access) {
  const unsigned thread = access.owner % kMaxThreads;
  if (access.time >= fence.time) return false;
  if (fence.thread == thread || access.time < fence.barrier_time) return true;
  const bool same_warp = fence.thread / kWarp == thread / kWarp;
  return same_warp && access.time < fence.seen[thread % kWarp];
}

inline bool happened_before(const Access& access, const Thread& thread) {
  const unsigned block = access.owner / kMaxThreads;
  const unsigned other = access.owner % kMaxThreads;
  const BlockState& state = blocks[block];
  const ThreadState& mine = state_of(thread);
  if (block == thread.block->id) {
    if (access.time < state.barrier_time) return true;
    if (other / kWarp == thread.warp && access.time < mine.seen[other % kWarp]) return true;
  }
  const auto known = mine.known.find(block);
  if (known == mine.known.end()) return false;
  const auto end = state.fences.begin() + known->second;
  return std::any_of(state.fences.begin(), end,
                     [&](const Fence& fence) { return fence_covers(fence, access); });
}

}  // namespace simt::race
