// fetch.h - asks for memory before a loop reaches it, on the CPU.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kLine = 64;  // bytes of a cache line

// Asks for the lines of bytes that will be read soon.
ONEPASS_HD void fetch_lines(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLine) ONEPASS_PREFETCH(static_cast<const char*>(from) + i);
}

// Asks for lines 4 KB ahead of these: the processor's own prefetcher stops at every page. Loops gain from it
// whose arithmetic takes about as long as memory does; a loop that only waits for memory gains nothing.
ONEPASS_HD void fetch_ahead(const void* from, int64_t bytes) {
  constexpr int64_t kAhead = 4096;
  fetch_lines(static_cast<const char*>(from) + kAhead, bytes);
}

}  // namespace onepass::ONEPASS_ISA
