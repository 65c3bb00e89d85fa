// move_bytes.h - rows of pixels of bytes turned around and taken apart into planes, on the CPU.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/compiler.h"

namespace onepass::ONEPASS_ISA {

// Pixel i of n is pixel n - 1 - i of `from`; writes up to 16 bytes more than n pixels.
template <int kChannels>
ONEPASS_WALK void turn_pixels(const uint8_t* from, uint8_t* to, int64_t n) {
  int64_t i = 0;
#if defined(__SSSE3__)
  if constexpr (kChannels == 3) {
    // Five pixels at a time. The sixteenth byte is of a pixel behind them, so the first five come one by one.
    const __m128i order = _mm_setr_epi8(12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2, 15);
    for (; i < 5 && i < n; ++i) std::memcpy(to + 3 * i, from + 3 * (n - 1 - i), 3);
    for (; i + 5 <= n; i += 5) {
      const __m128i five = _mm_loadu_si128((const __m128i*)(from + 3 * (n - 5 - i)));
      _mm_storeu_si128((__m128i*)(to + 3 * i), _mm_shuffle_epi8(five, order));
    }
  }
#endif
  for (; i < n; ++i) std::memcpy(to + kChannels * i, from + kChannels * (n - 1 - i), kChannels);
}

// Channel c of pixel i to plane[c * pitch + i].
template <int kChannels>
ONEPASS_WALK void take_apart(const uint8_t* __restrict from, uint8_t* __restrict plane, int64_t pitch,
                             int64_t n) {
  int64_t i = 0;
#if defined(__SSSE3__)
  if constexpr (kChannels == 3) {
    // From each of three vectors the bytes of one channel, the others' places 0.
    alignas(16) int8_t order[3][3][16];
    for (int c = 0; c < 3; ++c) {
      for (int v = 0; v < 3; ++v) {
        for (int k = 0; k < 16; ++k) {
          const int at = 3 * k + c - 16 * v;
          order[c][v][k] = int8_t(at >= 0 && at < 16 ? at : -1);
        }
      }
    }
    for (; i + 16 <= n; i += 16) {
      __m128i part[3];
      for (int v = 0; v < 3; ++v) part[v] = _mm_loadu_si128((const __m128i*)(from + 3 * i + 16 * v));
      for (int c = 0; c < 3; ++c) {
        const __m128i a = _mm_shuffle_epi8(part[0], *(const __m128i*)order[c][0]);
        const __m128i b = _mm_shuffle_epi8(part[1], *(const __m128i*)order[c][1]);
        const __m128i d = _mm_shuffle_epi8(part[2], *(const __m128i*)order[c][2]);
        _mm_storeu_si128((__m128i*)(plane + c * pitch + i), _mm_or_si128(_mm_or_si128(a, b), d));
      }
    }
  }
#endif
  for (; i < n; ++i) {
    for (int c = 0; c < kChannels; ++c) plane[c * pitch + i] = from[i * kChannels + c];
  }
}

// body(std::integral_constant<int, channels>{}), 1 to 4.
template <class Body>
ONEPASS_HD void with_channels(int64_t channels, const Body& body) {
  if (channels == 1) return body(std::integral_constant<int, 1>{});
  if (channels == 2) return body(std::integral_constant<int, 2>{});
  if (channels == 3) return body(std::integral_constant<int, 3>{});
  return body(std::integral_constant<int, 4>{});
}

}  // namespace onepass::ONEPASS_ISA
