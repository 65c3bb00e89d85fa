// rows.h - rows of elements and of flags for channels.h, on the CPU: stored elements to and from the
// arithmetic type, bits to and from flags. Everything works on rows in the L1 cache.
//
// A flag is one byte, 1 or 0: whether an element is kept, or passed. A vector of bytes widens to a vector of
// elements cheaply; bits do not.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/convert.h"
#include "loops/channels/shape.h"
#include "loops/common/fetch.h"
#include "loops/common/streamed.h"
#include "loops/draws/kept.h"

namespace onepass::ONEPASS_ISA {

// Elements of a row at most.
constexpr int64_t kChannelRow = 2048;

// How loops see stored elements: S is float, double or this, and T, the arithmetic type, is double for double
// and float for the others. A float16, and a bfloat16 whose row is worked on before the loop, passes through
// a row of floats.
struct BFloat16 {
  uint16_t bits;
};

ONEPASS_HD float widen(float x) { return x; }
ONEPASS_HD double widen(double x) { return x; }
ONEPASS_HD float widen(BFloat16 x) { return from_bfloat16(x.bits); }
ONEPASS_HD void narrow(float x, float& stored) { stored = x; }
ONEPASS_HD void narrow(double x, double& stored) { stored = x; }
ONEPASS_HD void narrow(float x, BFloat16& stored) { stored.bits = to_bfloat16(x); }

template <class S>
using arithmetic = decltype(widen(S{}));

constexpr bool stored_as(DType dtype, float) { return dtype == DType::kFloat32; }
constexpr bool stored_as(DType dtype, double) { return dtype == DType::kFloat64; }
constexpr bool stored_as(DType dtype, BFloat16) { return dtype == DType::kBFloat16; }

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

// flags[0 .. 64) of 64 bits.
ONEPASS_HD void unpack_word(uint64_t bits, uint8_t* flags) {
#if defined(__AVX512BW__)
  _mm512_storeu_si512(flags, _mm512_maskz_set1_epi8(bits, 1));
#else
  for (int k = 0; k < 64; k += 8) {
    // Byte k keeps bit k; adding 127 moves any bit to the byte's highest.
    const uint64_t spread = ((bits >> k & 0xffu) * 0x0101010101010101ull) & 0x8040201008040201ull;
    const uint64_t eight = ((spread + 0x7f7f7f7f7f7f7f7full) >> 7) & 0x0101010101010101ull;
    std::memcpy(flags + k, &eight, 8);  // x86 and ARM are little-endian
  }
#endif
}

// 64 bits of flags[0 .. 64).
ONEPASS_HD uint64_t pack_word(const uint8_t* flags) {
#if defined(__AVX512BW__)
  const __m512i all = _mm512_loadu_si512(flags);
  return _mm512_test_epi8_mask(all, all);
#else
  return ~equal_bytes(flags, 0);
#endif
}

// flags[0 .. n) of bits begin .. begin + n.
ONEPASS_WALK inline void unpack_bits(const uint8_t* bits, int64_t begin, int64_t n, uint8_t* flags) {
  const auto flag = [&](int64_t i) { flags[i] = bits[(begin + i) / 8] >> ((begin + i) % 8) & 1; };
  int64_t i = 0;
  for (; i < n && (begin + i) % 8 != 0; ++i) flag(i);
  for (; i + 64 <= n; i += 64) {
    uint64_t word;
    std::memcpy(&word, bits + (begin + i) / 8, sizeof word);
    unpack_word(word, flags + i);
  }
  for (; i < n; ++i) flag(i);
}

// bits[0 .. ceil(n / 8)) of flags[0 .. n).
ONEPASS_WALK inline void pack_bits(const uint8_t* flags, int64_t n, uint8_t* bits) {
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const uint64_t word = pack_word(flags + i);
    std::memcpy(bits + i / 8, &word, sizeof word);
  }
  for (; i < n; i += 8) {
    uint8_t last = 0;
    for (int64_t k = i; k < n && k < i + 8; ++k) last = uint8_t(last | flags[k] << (k - i));
    bits[i / 8] = last;
  }
}

template <class T>
ONEPASS_WALK void drop_row(const T* from, const uint8_t* __restrict kept, T scale, T* to, int64_t n) {
  constexpr int64_t kBlock = 64;
  const auto drop = [&](int64_t begin, int64_t end) {
    ONEPASS_INDEPENDENT
    for (int64_t i = begin; i < end; ++i) to[i] = math::drop(from[i], kept[i] != 0, scale);
  };
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    // A masked load waits for its mask (fetch_chosen).
    fetch_ahead(from + i, kBlock * int64_t(sizeof(T)));
    drop(i, i + kBlock);
  }
  drop(i, n);
}

}  // namespace onepass::ONEPASS_ISA
