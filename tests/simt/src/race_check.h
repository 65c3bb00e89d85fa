// race_check.h - the only way into the race detector for accesses to memory.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(SIMT_RACE) || defined(__SANITIZE_THREAD__)
#error "compile the race detector with -DSIMT_RACE and without -fsanitize=thread"
#endif

namespace simt::race {

inline uintptr_t number(const void* address) { return reinterpret_cast<uintptr_t>(address); }

// Called before the running thread accesses the bytes. Ends the launch if that is a race, or no device
// memory.
void check_access(uintptr_t address, size_t size, bool write, bool atomic, void* return_address);

}  // namespace simt::race
