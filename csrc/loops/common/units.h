// units.h - shares numbered units of work out among threads, on the CPU. Each thread has neighbouring units,
// the first thread the first ones, as torch's own operations share their elements out: what one operation has
// left in a core's cache the next one finds there. A thread that is done takes units of the others, so
// results must not depend on which thread takes which unit.
#pragma once

#include <cstdint>

#include "core/parallel.h"
#include "loops/common/nontemporal.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kMinElementsPerThread = 16 * 1024;

// Further threads have no units of their own.
constexpr int kMostShares = 64;

template <class Unit>
struct UnitWork {
  // On a line of its own: another thread's counter must not slow this one.
  struct alignas(64) Share {
    int64_t begin, end;
    int64_t done;
  };
  const Unit& unit;
  bool backwards;
  int shares;
  Share share[kMostShares];

  UnitWork(const Unit& each, int64_t count, int threads, bool back) : unit(each), backwards(back) {
    shares = threads < kMostShares ? threads : kMostShares;
    for (int s = 0; s < shares; ++s) share[s] = {count * s / shares, count * (s + 1) / shares, 0};
  }

  void drain(Share& from) {
    while (true) {
      const int64_t k = __atomic_fetch_add(&from.done, 1, __ATOMIC_RELAXED);
      if (k >= from.end - from.begin) return;
      unit(backwards ? from.end - 1 - k : from.begin + k);
    }
  }
  static void run(void* self) {
    UnitWork& work = *static_cast<UnitWork*>(self);
    const int own = thread_number();
    for (int s = 0; s < work.shares; ++s) work.drain(work.share[(own + s) % work.shares]);
    nontemporal_fence();
  }
  static void share_out(int threads, int64_t count, const Unit& unit, bool backwards) {
    if (count <= 0) return;
    const int team = threads < count ? threads : int(count);
    UnitWork work(unit, count, team, backwards);
    parallel_run(team, run, &work);
  }
};

// unit(0) .. unit(count - 1), in no order.
template <class Unit>
inline void for_each_unit(int threads, int64_t count, const Unit& unit) {
  UnitWork<Unit>::share_out(threads, count, unit, false);
}

// The same; a thread goes through its own units from the last to the first.
template <class Unit>
inline void for_each_unit_backwards(int threads, int64_t count, const Unit& unit) {
  UnitWork<Unit>::share_out(threads, count, unit, true);
}

template <class Unit>
struct SlotWork {
  const Unit& unit;
  int64_t count;
  int64_t next;
  int slot;

  static void run(void* self) {
    SlotWork& work = *static_cast<SlotWork*>(self);
    const int slot = __atomic_fetch_add(&work.slot, 1, __ATOMIC_RELAXED);
    while (true) {
      const int64_t i = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED);
      if (i >= work.count) return nontemporal_fence();
      work.unit(i, slot);
    }
  }
};

// unit(0, slot) .. unit(count - 1, slot), in no order. slot: a number that no other thread has, 0 to
// threads - 1, for memory of the thread's own.
template <class Unit>
inline void for_each_unit_in_slots(int threads, int64_t count, const Unit& unit) {
  SlotWork<Unit> work{unit, count, 0, 0};
  parallel_run(threads < count ? threads : int(count), work.run, &work);
}

// At most `threads`: each further thread must have work enough to pay for itself.
inline int threads_for(int64_t numel, int threads) {
  const int64_t most = numel / kMinElementsPerThread + 1;
  return threads < most ? threads : int(most);
}

}  // namespace onepass::ONEPASS_ISA
