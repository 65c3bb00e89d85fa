// strips.h - strips, on the CPU: up to kStrip elements that follow each other in memory, read where they lie
// or through a buffer in the L1 cache, and stored likewise.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/convert.h"
#include "loops/common/fetch.h"
#include "loops/common/nontemporal.h"

namespace onepass::ONEPASS_ISA {

// Elements of a strip at most: its buffers fit the L1 cache.
constexpr int64_t kStrip = 2048;

// Asks for stored[begin .. begin + n).
inline void fetch_elements(DType dtype, const void* stored, int64_t begin, int64_t n) {
  const int64_t size = size_of(dtype);
  fetch_lines(static_cast<const char*>(stored) + begin * size, n * size);
}

// stored[begin .. begin + n) as S: in place, or widened in the buffer. Memory would be idle while the buffer
// is worked on, so the elements behind it are asked for.
template <class S>
inline const S* read_strip(DType dtype, const void* stored, int64_t begin, int64_t n, S* buffer) {
  if (stored_as(dtype, S{})) return static_cast<const S*>(stored) + begin;
  if constexpr (sizeof(S) >= sizeof(float)) {
    const int64_t size = size_of(dtype);
    fetch_ahead(static_cast<const char*>(stored) + begin * size, n * size);
    load_strip(dtype, stored, begin, buffer, n);
  }
  return buffer;
}

// Where strips are filled and stored: in the memory itself, or in a buffer if elements are narrower or stored
// past the caches.
struct Output {
  DType dtype;
  void* stored;
  bool nontemporal;

  // Whether results can be written as S straight to where they are stored.
  template <class S>
  bool takes() const {
    return stored_as(dtype, S{});
  }
  template <class S>
  S* open(int64_t begin, S* buffer) const {
    return stored_as(dtype, S{}) && !nontemporal ? static_cast<S*>(stored) + begin : buffer;
  }
  // Stores a strip that need not have been opened here.
  template <class S>
  void copy(int64_t begin, const S* strip, int64_t n) const {
    S* to = static_cast<S*>(stored) + begin;
    if (!stored_as(dtype, S{}) || nontemporal) return close(begin, strip, n);
    if (strip != to) std::memcpy(to, strip, size_t(n) * sizeof(S));
  }
  template <class S>
  void close(int64_t begin, const S* strip, int64_t n) const {
    if (stored_as(dtype, S{})) {
      if (nontemporal) copy_nontemporal(static_cast<S*>(stored) + begin, strip, n * int64_t(sizeof(S)));
      return;
    }
    if constexpr (std::is_same_v<S, float>) {
      if (!nontemporal) return store_strip(dtype, stored, begin, strip, n);
      uint16_t narrow[kStrip];
      store_strip(dtype, narrow, 0, strip, n);
      copy_nontemporal(static_cast<uint16_t*>(stored) + begin, narrow, n * int64_t(sizeof(uint16_t)));
    }
  }
};

}  // namespace onepass::ONEPASS_ISA
