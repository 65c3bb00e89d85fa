// bytes.h - flags as bytes, 1 or 0, on the CPU: to and from bits, and the places of equal bytes.
//
// A vector of bytes widens to a vector of elements cheaply; bits do not.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/compiler.h"

namespace onepass::ONEPASS_ISA {

// Bit k: whether bytes[k] is `wanted`, 0 <= k < 64.
ONEPASS_HD uint64_t equal_bytes(const uint8_t* bytes, uint8_t wanted) {
  uint64_t found = 0;
#if defined(__AVX512BW__)
  found = _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(bytes), _mm512_set1_epi8(char(wanted)));
#elif defined(__SSE2__)
  const __m128i same = _mm_set1_epi8(char(wanted));
  for (int k = 0; k < 64; k += 16) {
    const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + k));
    found |= uint64_t(uint32_t(_mm_movemask_epi8(_mm_cmpeq_epi8(some, same)))) << k;
  }
#else
  for (int k = 0; k < 64; ++k) found |= uint64_t(bytes[k] == wanted) << k;
#endif
  return found;
}

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
  const auto flag = [&](int64_t i)
                        ONEPASS_INLINED { flags[i] = bits[(begin + i) / 8] >> ((begin + i) % 8) & 1; };
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

}  // namespace onepass::ONEPASS_ISA
