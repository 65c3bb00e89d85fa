// collectives.h - where threads wait for each other: block barriers, warp shuffles and votes.
//
// A collective is checked when a thread enters it: the same operation at the same source line, the same mask,
// a valid width, and no lane in the mask that has returned. launch() reports one that never completes as a
// deadlock.
#pragma once

#include <cstring>
#include <type_traits>

#include "simt/scheduler.h"

namespace simt {

struct Votes {
  int count;
  bool all;
};

inline bool same_place(const Where& a, const Where& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

template <class T>
T output_of(const Thread& thread) {
  T value;
  std::memcpy(&value, thread.output, sizeof value);
  return value;
}

// Releases the block if all its live threads wait in the same barrier; fails if they wait in different ones.
inline void complete_barrier(Block& block) {
  if (block.live == 0 || block.waiting != block.live) return;
  const Thread* first = nullptr;
  Votes votes{0, true};
  for (const Thread& thread : block.threads) {
    if (thread.done) continue;
    if (!first) first = &thread;
    if (thread.op != first->op || !same_place(thread.at, first->at)) {
      fail("divergent __syncthreads: " + text(*first) + " at " + text(first->at) + ", " + text(thread) +
               " at " + text(thread.at),
           thread.at);
      stop();
    }
    votes.count += thread.argument != 0;
    votes.all = votes.all && thread.argument != 0;
  }
  if (block.live != block.threads.size() && !options.allow_exited) {
    fail("__syncthreads after some threads of the block have returned", first->at);
    stop();
  }
  std::vector<Thread*> released;
  for (Thread& thread : block.threads) {
    if (thread.done) continue;
    thread.op = nullptr;
    std::memcpy(thread.output, &votes, sizeof votes);
    released.push_back(&thread);
  }
  block.waiting = 0;
  machine.spins = 0;
  race::barrier(block);
  make_ready(released);
}

inline Votes sync_block(int predicate, const char* op, Where at) {
  OutsideKernel outside;
  Thread& thread = *machine.self;
  thread.op = op;
  thread.at = at;
  thread.argument = predicate;
  thread.mask = 0;
  ++stats.collectives;
  ++thread.block->waiting;
  complete_barrier(*thread.block);
  dispatch();
  return output_of<Votes>(thread);
}

inline void check_own_arguments(const Thread& thread) {
  if (!(thread.mask >> thread.lane & 1)) {
    fail(std::string(thread.op) + ": the calling lane is not in its mask", thread.at);
    stop();
  }
  const int width = thread.width;
  if (width < 1 || width > int(kWarp) || (width & (width - 1))) {
    fail(std::string(thread.op) + ": width is not a power of two in 1..32", thread.at);
    stop();
  }
}

// Whether `other`, named in the mask of `thread`, waits in the collective that `thread` has entered.
inline bool has_joined(const Thread& thread, const Thread& other) {
  const bool in_warp_collective = other.op && other.mask;
  if (!in_warp_collective) return false;
  if (other.mask == thread.mask && other.combine == thread.combine && same_place(other.at, thread.at))
    return true;
  // It waits for others and may come here afterwards, unless it waits for this thread.
  if (other.mask >> thread.lane & 1) {
    fail(std::string(thread.op) + " meets a different " + other.op + " of " + text(other) + " at " +
             text(other.at),
         thread.at);
    stop();
  }
  return false;
}

// Fills lanes[] with the threads named in the mask; true if all of them have joined.
inline bool gather_lanes(const Thread& thread, Thread** lanes) {
  std::vector<Thread>& threads = thread.block->threads;
  bool all = true;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!(thread.mask >> lane & 1)) continue;
    const unsigned id = thread.warp * kWarp + lane;
    const bool exists = id < threads.size();
    if (!exists || threads[id].done) {
      fail(std::string(thread.op) + ": lane " + std::to_string(lane) + " is in the mask but has " +
               (exists ? "exited" : "never existed"),
           thread.at);
      stop();
    }
    lanes[lane] = &threads[id];
    all = has_joined(thread, threads[id]) && all;
  }
  return all;
}

// Waits until every lane named in the mask is in this collective. The last lane to arrive calls combine(),
// which computes all outputs from all inputs. The caller has put its input in the running thread.
inline void warp_collective(const char* op, unsigned mask, int argument, int width,
                            void (*combine)(Thread* const*, unsigned), Where at) {
  Thread& thread = *machine.self;
  thread.op = op;
  thread.at = at;
  thread.mask = mask;
  thread.argument = argument;
  thread.width = width;
  thread.combine = combine;
  ++stats.collectives;
  check_own_arguments(thread);
  Thread* lanes[kWarp] = {};
  if (gather_lanes(thread, lanes)) {
    combine(lanes, mask);
    race::warp(lanes);
    machine.spins = 0;
    std::vector<Thread*> released;
    for (Thread* lane : lanes) {
      if (!lane) continue;
      lane->op = nullptr;
      released.push_back(lane);
    }
    make_ready(released);
  }  // frees `released` before the switch: this stack may be abandoned there
  dispatch();
}

enum class Shuffle { kIndex, kUp, kDown, kXor };

// The lane that `lane` reads from: shfl.sync of the PTX manual.
template <Shuffle kind>
int source_lane(int lane, int argument, int width) {
  const int first = lane & ~(width - 1);
  const int last = first | (width - 1);
  argument &= kWarp - 1;
  if (kind == Shuffle::kIndex) return first | (argument & (width - 1));
  if (kind == Shuffle::kUp) return lane - argument < first ? lane : lane - argument;
  const int source = kind == Shuffle::kDown ? lane + argument : lane ^ argument;
  return source > last ? lane : source;
}

template <Shuffle kind, class T>
T shuffle_lanes(const char* op, unsigned mask, T value, int argument, int width, Where at) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kLaneBytes);
  OutsideKernel outside;
  std::memcpy(machine.self->input, &value, sizeof value);
  const auto combine = [](Thread* const* lanes, unsigned named) {
    for (int lane = 0; lane < int(kWarp); ++lane) {
      if (!lanes[lane]) continue;
      const int source = source_lane<kind>(lane, lanes[lane]->argument, lanes[lane]->width);
      if (named >> source & 1) {
        std::memcpy(lanes[lane]->output, lanes[source]->input, sizeof(T));
      } else {
        std::memset(lanes[lane]->output, 0xFF, sizeof(T));  // undefined on a GPU; nan here
      }
    }
  };
  warp_collective(op, mask, argument, width, combine, at);
  return output_of<T>(*machine.self);
}

// The ballot of the lanes named in the mask.
inline unsigned vote(const char* op, unsigned mask, bool predicate, Where at) {
  OutsideKernel outside;
  machine.self->input[0] = predicate;
  const auto combine = [](Thread* const* lanes, unsigned) {
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (lanes[lane]) ballot |= unsigned(lanes[lane]->input[0]) << lane;
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (lanes[lane]) std::memcpy(lanes[lane]->output, &ballot, sizeof ballot);
    }
  };
  warp_collective(op, mask, 0, kWarp, combine, at);
  return output_of<unsigned>(*machine.self);
}

}  // namespace simt
