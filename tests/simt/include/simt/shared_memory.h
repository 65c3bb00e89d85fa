// shared_memory.h - shared memory as one heap object per variable and per block, so that AddressSanitizer
// sees the bounds of each. It is filled with 0xFF (nan), so that reading before writing shows.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "simt/scheduler.h"

namespace simt {

constexpr int kUnwrittenByte = 0xFF;

inline void* allocate_shared(size_t size, size_t alignment) {
  if (size == 0) return nullptr;
  void* memory = nullptr;
  if (posix_memalign(&memory, std::max<size_t>(alignment, 16), size)) out_of("shared memory");
  std::memset(memory, kUnwrittenByte, size);
  race::track(memory, size, true);
  return memory;
}

inline void free_shared(void* memory) {
  if (!memory) return;
  race::forget(memory);
  std::free(memory);
}

// There is one for every KERNEL_SMEM declaration and each template instance of it.
class SmemSite {
 public:
  template <class T>
  T& get() {
    OutsideKernel outside;
    if (id_ < 0) id_ = machine.shared_sites++;
    const size_t id = static_cast<size_t>(id_);
    std::vector<void*>& shared = machine.self->block->shared;
    if (shared.size() <= id) shared.resize(id + 1);
    if (!shared[id]) shared[id] = allocate_shared(sizeof(T), alignof(T));
    return *static_cast<T*>(shared[id]);
  }

 private:
  int id_ = -1;
};

inline void* dyn_smem() {
  OutsideKernel outside;
  return machine.self->block->dynamic_shared;
}

}  // namespace simt
