// units.h - shares numbered units of work out among threads, on the CPU. A thread that is done with a unit
// takes the next one, so results must not depend on which thread takes which unit.
#pragma once

#include <cstdint>

#include "core/parallel.h"
#include "loops/common/nontemporal.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kMinElementsPerThread = 16 * 1024;

template <class Unit>
struct UnitWork {
  const Unit& unit;
  int64_t count;
  int64_t next;

  static void run(void* self) {
    UnitWork& work = *static_cast<UnitWork*>(self);
    while (true) {
      const int64_t i = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED);
      if (i >= work.count) return nontemporal_fence();
      work.unit(i);
    }
  }
};

// unit(0) .. unit(count - 1), in no order.
template <class Unit>
inline void for_each_unit(int threads, int64_t count, const Unit& unit) {
  UnitWork<Unit> work{unit, count, 0};
  parallel_run(threads < count ? threads : int(count), work.run, &work);
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
