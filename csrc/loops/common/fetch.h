// fetch.h - asking for memory before a loop comes to it, on the CPU.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kLine = 64;  // bytes of a cache line

// Asks for lines that are not worked on yet.
ONEPASS_HD void fetch_lines(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLine) ONEPASS_PREFETCH(static_cast<const char*>(from) + i);
}

// The same well before a loop comes to them, for one whose arithmetic takes about as long as memory does: the
// processor's own fetching waits at every page. A loop that only waits for memory gains nothing.
ONEPASS_HD void fetch_ahead(const void* from, int64_t bytes) {
  constexpr int64_t kAhead = 4096;
  fetch_lines(static_cast<const char*>(from) + kAhead, bytes);
}

}  // namespace onepass::ONEPASS_ISA
