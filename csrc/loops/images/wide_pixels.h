// wide_pixels.h - kWide pixels side by side in registers, on the CPU: their positions, the bytes of their
// taps, and the order in which their channels are stored.
#pragma once

#include <cstdint>

#include "loops/images/wide.h"

namespace onepass::ONEPASS_ISA {

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))

#if defined(__AVX512F__)
// One coordinate of kWide pixels.
struct WideDoubles {
  __m512d half[2];

  ONEPASS_HD WideDoubles(__m512d first, __m512d second) : half{first, second} {}
  ONEPASS_HD explicit WideDoubles(double each) : half{_mm512_set1_pd(each), _mm512_set1_pd(each)} {}
  // begin, begin + 1, and so on.
  ONEPASS_HD static WideDoubles from(double begin) {
    const __m512d places = _mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7), first = _mm512_set1_pd(begin);
    return {_mm512_add_pd(first, places), _mm512_add_pd(_mm512_add_pd(first, places), _mm512_set1_pd(8))};
  }
  ONEPASS_HD friend WideDoubles operator*(WideDoubles a, WideDoubles b) {
    return {_mm512_mul_pd(a.half[0], b.half[0]), _mm512_mul_pd(a.half[1], b.half[1])};
  }
  ONEPASS_HD friend WideDoubles operator+(WideDoubles a, WideDoubles b) {
    return {_mm512_add_pd(a.half[0], b.half[0]), _mm512_add_pd(a.half[1], b.half[1])};
  }
  ONEPASS_HD friend WideDoubles operator-(WideDoubles a, WideDoubles b) {
    return {_mm512_sub_pd(a.half[0], b.half[0]), _mm512_sub_pd(a.half[1], b.half[1])};
  }
  ONEPASS_HD friend WideDoubles smaller(WideDoubles a, WideDoubles b) {
    return {_mm512_maskz_min_pd(0xff, a.half[0], b.half[0]), _mm512_maskz_min_pd(0xff, a.half[1], b.half[1])};
  }
  ONEPASS_HD friend WideDoubles larger(WideDoubles a, WideDoubles b) {
    return {_mm512_maskz_max_pd(0xff, a.half[0], b.half[0]), _mm512_maskz_max_pd(0xff, a.half[1], b.half[1])};
  }
  ONEPASS_HD friend WideDoubles whole_part(WideDoubles a) {
    constexpr int kDown = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    return {_mm512_maskz_roundscale_pd(0xff, a.half[0], kDown),
            _mm512_maskz_roundscale_pd(0xff, a.half[1], kDown)};
  }
  // Whole numbers.
  ONEPASS_HD void store(int32_t* to) const {
    _mm256_store_si256((__m256i*)to, _mm512_maskz_cvttpd_epi32(0xff, half[0]));
    _mm256_store_si256((__m256i*)(to + 8), _mm512_maskz_cvttpd_epi32(0xff, half[1]));
  }
  ONEPASS_HD Wide floats() const {
    const __m256 first = _mm512_maskz_cvtpd_ps(0xff, half[0]), second = _mm512_maskz_cvtpd_ps(0xff, half[1]);
    return Wide(_mm512_maskz_insertf32x8(kAll, _mm512_castps256_ps512(first), second, 1));
  }
};

// One word of four bytes a pixel.
struct WideWords {
  __m512i lanes;

  // Byte `place` of each word.
  ONEPASS_HD Wide byte(int place) const {
    __m512i bytes = place == 0 ? lanes : _mm512_maskz_srli_epi32(kAll, lanes, unsigned(8 * place));
    if (place < 3) bytes = _mm512_and_si512(bytes, _mm512_set1_epi32(0xff));
    return Wide(_mm512_maskz_cvtepi32_ps(kAll, bytes));
  }
};

// Eight bytes a pixel from `from` + offset[i] on, as two words.
struct WideTaps {
  WideWords low, high;

  ONEPASS_HD static __m128i two(const char* from, const int32_t* offset) {
    const __m128i first = _mm_loadl_epi64((const __m128i*)(from + offset[0]));
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(first), (const __m64*)(from + offset[1])));
  }
  // Pixels 0, 1, 4, 5, 8, 9, 12, 13 behind `offset`.
  ONEPASS_HD static __m512 half(const char* from, const int32_t* offset) {
    const __m256i front =
        _mm256_inserti128_si256(_mm256_castsi128_si256(two(from, offset)), two(from, offset + 4), 1);
    const __m256i back =
        _mm256_inserti128_si256(_mm256_castsi128_si256(two(from, offset + 8)), two(from, offset + 12), 1);
    return _mm512_castsi512_ps(_mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(front), back, 1));
  }
  ONEPASS_HD static WideTaps load(const char* from, const int32_t* offset) {
    const __m512 a = half(from, offset), b = half(from, offset + 2);
    return {{_mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88))},
            {_mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xdd))}};
  }
  ONEPASS_HD Wide byte(int place) const { return place < 4 ? low.byte(place) : high.byte(place - 4); }
};
#endif

#endif

}  // namespace onepass::ONEPASS_ISA
