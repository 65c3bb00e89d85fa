// rows.h - rows of elements that follow each other in memory, on the CPU: read where they lie or through a
// buffer in the L1 cache, and stored likewise.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/convert.h"
#include "loops/common/fetch.h"
#include "loops/common/streamed.h"

namespace onepass::ONEPASS_ISA {

// Elements of a row at most.
constexpr int64_t kChannelRow = 2048;

// Asks for stored[begin .. begin + n).
inline void fetch_elements(DType dtype, const void* stored, int64_t begin, int64_t n) {
  const int64_t size = size_of(dtype);
  fetch_lines(static_cast<const char*>(stored) + begin * size, n * size);
}

// stored[begin .. begin + n) as S: in place, or widened in the buffer. While the buffer is worked on memory
// would be idle, so what lies behind is asked for.
template <class S>
inline const S* read_row(DType dtype, const void* stored, int64_t begin, int64_t n, S* buffer) {
  if (stored_as(dtype, S{})) return static_cast<const S*>(stored) + begin;
  if constexpr (sizeof(S) >= sizeof(float)) {
    const int64_t size = size_of(dtype);
    fetch_ahead(static_cast<const char*>(stored) + begin * size, n * size);
    load_row(dtype, stored, begin, buffer, n);
  }
  return buffer;
}

// Rows to be filled and stored: into the memory itself, or a buffer for narrower elements or for streaming.
struct Output {
  DType dtype;
  void* stored;
  bool streams;

  // Whether rows can be walked straight to where they are stored.
  template <class S>
  bool takes() const {
    return stored_as(dtype, S{});
  }
  template <class S>
  S* open(int64_t begin, S* buffer) const {
    return stored_as(dtype, S{}) && !streams ? static_cast<S*>(stored) + begin : buffer;
  }
  // The row is stored whether or not it was opened here.
  template <class S>
  void copy(int64_t begin, const S* row, int64_t n) const {
    S* to = static_cast<S*>(stored) + begin;
    if (!stored_as(dtype, S{}) || streams) return close(begin, row, n);
    if (row != to) std::memcpy(to, row, size_t(n) * sizeof(S));
  }
  template <class S>
  void close(int64_t begin, const S* row, int64_t n) const {
    if (stored_as(dtype, S{})) {
      if (streams) stream_row(static_cast<S*>(stored) + begin, row, n * int64_t(sizeof(S)));
      return;
    }
    if constexpr (std::is_same_v<S, float>) {
      if (!streams) return store_row(dtype, stored, begin, row, n);
      uint16_t narrow[kChannelRow];
      store_row(dtype, narrow, 0, row, n);
      stream_row(static_cast<uint16_t*>(stored) + begin, narrow, n * int64_t(sizeof(uint16_t)));
    }
  }
};

}  // namespace onepass::ONEPASS_ISA
