// race_hooks.h - what the simulator reports to the race detector.
//
// In the race build (-DSIMT_RACE -fsanitize=thread) src/race.cpp defines these; elsewhere they are empty.
#pragma once

#include <cstddef>

namespace simt {
struct Block;
struct Thread;
}  // namespace simt

namespace simt::race {

#ifdef SIMT_RACE
// A launch begins: forget all accesses.
void launch(size_t blocks, unsigned threads_per_block);
// All threads of the block have reached a barrier.
void barrier(Block& block);
// The lanes that are not null have met in a warp collective.
void warp(Thread* const* lanes);
// The running thread passes a fence.
void fence();
// The running thread is about to change *address atomically.
void atomic(const void* address, size_t size);
// From here on the bytes are device memory (of one block, if shared); forget() ends that.
void track(const void* start, size_t size, bool shared);
void forget(const void* start);
#else
inline void launch(size_t, unsigned) {}
inline void barrier(Block&) {}
inline void warp(Thread* const*) {}
inline void fence() {}
inline void atomic(const void*, size_t) {}
inline void track(const void*, size_t, bool) {}
inline void forget(const void*) {}
#endif

}  // namespace simt::race
