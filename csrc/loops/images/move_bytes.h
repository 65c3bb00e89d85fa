// move_bytes.h - rows of bytes that become values without interpolation, on the CPU: turned around, taken
// apart into planes, and through a formula, straight to where they are stored.
#pragma once

#include <cstdint>
#include <cstring>

#include "loops/common/nontemporal.h"
#include "loops/images/pixels.h"
#include "loops/images/wide.h"

namespace onepass::ONEPASS_ISA {

// What a formula has for each channel, repeated: elements of a row from any one on find theirs side by side.
constexpr int64_t kPatternPeriod = 48;  // one, two, three and four channels divide it
struct Pattern {
  alignas(64) float term[3][2 * kPatternPeriod];

  // The channels of pixels whose channels follow each other.
  void set(int which, int64_t channels, int64_t channel, float value) {
    for (int64_t i = channel; i < 2 * kPatternPeriod; i += channels) term[which][i] = value;
  }
};

ONEPASS_HD void narrow_finite(float v, float& stored) { stored = v; }
ONEPASS_HD void narrow_finite(float v, BFloat16& stored) {
  stored.bits = uint16_t(round_to_high_half(v) >> 16);
}

// to[k] = formula(from[k], terms), k < n. The pattern has the terms of from[0] at `phase`.
template <class F, class O>
ONEPASS_HD void convert_bytes(const F& formula, const uint8_t* from, const Pattern& pattern, int64_t phase,
                              O* to, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    const int64_t at = phase + k;
    narrow_finite(formula(float(from[k]), pattern.term[0][at], pattern.term[1][at], pattern.term[2][at]),
                  to[k]);
  }
}

// kPatternPeriod elements, or fewer where n is a number of registers.
template <bool kNontemporal, class F, class O>
ONEPASS_HD void convert_wide(const F& formula, const uint8_t* from, const Pattern& pattern, int64_t phase,
                             O* to, int64_t n) {
#if ONEPASS_FUSES && defined(__AVX2__)
  ONEPASS_UNROLLED
  for (int64_t k = 0; k < n; k += kWide) {
    const float* term = &pattern.term[0][phase + k];
    constexpr int64_t kNext = 2 * kPatternPeriod;
    store_finite(formula(Wide::of_bytes(from + k), Wide::load(term), Wide::load(term + kNext),
                         Wide::load(term + 2 * kNext)),
                 to + k, kNontemporal);
  }
#else
  convert_bytes(formula, from, pattern, phase, to, n);
#endif
}

// Elements [begin, end) of a row, a number of registers, to `to`.
template <bool kNontemporal, class F, class O>
ONEPASS_WALK void convert_whole(const F formula, const uint8_t* from, const Pattern& pattern, int64_t phase,
                                O* to, int64_t n) {
  int64_t i = 0;
  for (; i + kPatternPeriod <= n; i += kPatternPeriod) {
    convert_wide<kNontemporal>(formula, from + i, pattern, phase, to + i, kPatternPeriod);
  }
  if (i < n) convert_wide<kNontemporal>(formula, from + i, pattern, phase, to + i, n - i);
}

// A row of n elements: a fill, from element `begin` to `end` those that bytes become, and a fill.
template <class F, class O>
struct ByteRow {
  const F& formula;
  const uint8_t* bytes;  // of element `begin`
  const Pattern& pattern;
  const float* fill;  // kPatternPeriod * 2
  int64_t channels, begin, end, n;

  // Elements [first, last) to `to`.
  ONEPASS_HD void put(int64_t first, int64_t last, O* to) const {
    const int64_t left = begin < last ? begin : last, right = end > first ? end : first;
    put_fill(first, left, to);
    const int64_t from = first > begin ? first : begin, until = last < end ? last : end;
    if (from < until) {
      const int64_t whole = (until - from) / kRegister * kRegister, phase = from % channels;
      O* at = to + (from - first);
      convert_whole<false>(formula, bytes + (from - begin), pattern, phase, at, whole);
      convert_bytes(formula, bytes + (from - begin) + whole, pattern, (from + whole) % channels, at + whole,
                    until - from - whole);
    }
    put_fill(right, last, to + (right - first));
  }
  // Past the caches, with the lines that rows share kept open.
  void store(O* to, OpenLine<O>& line) const {
    split_at_lines(
        line, to, n, [&](int64_t first, int64_t last, O* at) ONEPASS_INLINED { put(first, last, at); },
        [&](int64_t first, int64_t last) ONEPASS_INLINED {
          const int64_t before = up(begin - first),
                        left = first + (before < last - first ? before : last - first);
          const int64_t right =
              left + (end > left ? (end < last ? end : last) - left : 0) / kElements * kElements;
          put_lines(first, left, to);
          convert_whole<true>(formula, bytes + (left - begin), pattern, left % channels, to + left,
                              right - left);
          put_lines(right, last, to);
        });
  }

 private:
  static constexpr int64_t kElements = kLineElements<O>, kRegister = 16;
  static int64_t up(int64_t count) { return count > 0 ? (count + kElements - 1) / kElements * kElements : 0; }

  ONEPASS_HD void put_fill(int64_t first, int64_t last, O* to) const {
    const float* values = fill + (first < last ? first % channels : 0);
    for (int64_t i = first; i < last; i += kPatternPeriod) {
      const int64_t count = last - i < kPatternPeriod ? last - i : kPatternPeriod;
      for (int64_t k = 0; k < count; ++k) narrow_finite(values[k], to[i - first + k]);
    }
  }
  ONEPASS_HD void put_lines(int64_t first, int64_t last, O* to) const {
    for (int64_t i = first; i < last; i += kElements) {
      alignas(kLine) O line[kElements];
      put(i, i + kElements, line);
      copy_lines_nontemporal(to + i, line, kLine);
    }
  }
};

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
