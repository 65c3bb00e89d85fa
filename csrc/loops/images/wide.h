// wide.h - some floats side by side in a register, for formulas that are templates, on the CPU: where a loop
// from bytes to floats is compiled as one, GCC takes registers a quarter as wide.
//
// kWide is 0 where the instruction set has no fused multiply-add; then only scalar code is used.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/convert.h"
#include "core/fused.h"

namespace onepass::ONEPASS_ISA {

#if defined(__AVX512F__)
constexpr int64_t kWide = 16;
// All lanes. The same functions without a mask begin with a register that GCC 12 warns is not initialised.
constexpr __mmask16 kAll = 0xffff;

struct Wide {
  __m512 lanes;

  ONEPASS_HD explicit Wide(__m512 given) : lanes(given) {}
  ONEPASS_HD explicit Wide(float each) : lanes(_mm512_set1_ps(each)) {}
  ONEPASS_HD static Wide of_bytes(const uint8_t* from) {
    return Wide(_mm512_maskz_cvtepi32_ps(
        kAll, _mm512_maskz_cvtepu8_epi32(kAll, _mm_loadu_si128((const __m128i*)from))));
  }
  ONEPASS_HD static Wide load(const float* from) { return Wide(_mm512_loadu_ps(from)); }
  ONEPASS_HD friend Wide operator*(Wide a, Wide b) { return Wide(_mm512_mul_ps(a.lanes, b.lanes)); }
  ONEPASS_HD friend Wide operator+(Wide a, Wide b) { return Wide(_mm512_add_ps(a.lanes, b.lanes)); }
  ONEPASS_HD friend Wide operator-(Wide a, Wide b) { return Wide(_mm512_sub_ps(a.lanes, b.lanes)); }
  ONEPASS_HD friend Wide operator/(Wide a, Wide b) { return Wide(_mm512_div_ps(a.lanes, b.lanes)); }
  ONEPASS_HD friend Wide fused(Wide a, Wide b, Wide c) {
    return Wide(_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes));
  }
  // In each lane `first` where a equals b.
  ONEPASS_HD friend Wide chosen_where_equal(Wide a, Wide b, Wide first, Wide second) {
    return Wide(
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.lanes, b.lanes, _CMP_EQ_OQ), second.lanes, first.lanes));
  }

  ONEPASS_HD void store(float* to, bool nontemporal) const {
    if (nontemporal) return _mm512_stream_ps(to, lanes);
    _mm512_storeu_ps(to, lanes);
  }
};

// Two of them as a line of bfloat16.
ONEPASS_HD __m256i round_finite(Wide v) {
  const __m512i bits = _mm512_castps_si512(v.lanes);
  const __m512i odd = _mm512_and_si512(_mm512_maskz_srli_epi32(kAll, bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  return _mm512_maskz_cvtepi32_epi16(kAll, _mm512_maskz_srli_epi32(kAll, rounded, 16));
}
ONEPASS_HD void store_finite(Wide v, BFloat16* to, bool nontemporal) {
  if (nontemporal) return _mm256_stream_si256((__m256i*)to, round_finite(v));
  _mm256_storeu_si256((__m256i*)to, round_finite(v));
}
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int64_t kWide = 8;

struct Wide {
  __m256 lanes;

  ONEPASS_HD explicit Wide(__m256 given) : lanes(given) {}
  ONEPASS_HD explicit Wide(float each) : lanes(_mm256_set1_ps(each)) {}
  ONEPASS_HD static Wide of_bytes(const uint8_t* from) {
    return Wide(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from))));
  }
  ONEPASS_HD static Wide load(const float* from) { return Wide(_mm256_loadu_ps(from)); }
  ONEPASS_HD friend Wide operator*(Wide a, Wide b) { return Wide(_mm256_mul_ps(a.lanes, b.lanes)); }
  ONEPASS_HD friend Wide operator+(Wide a, Wide b) { return Wide(_mm256_add_ps(a.lanes, b.lanes)); }
  ONEPASS_HD friend Wide operator-(Wide a, Wide b) { return Wide(_mm256_sub_ps(a.lanes, b.lanes)); }
  ONEPASS_HD friend Wide operator/(Wide a, Wide b) { return Wide(_mm256_div_ps(a.lanes, b.lanes)); }
  ONEPASS_HD friend Wide fused(Wide a, Wide b, Wide c) {
    return Wide(_mm256_fmadd_ps(a.lanes, b.lanes, c.lanes));
  }

  ONEPASS_HD void store(float* to, bool nontemporal) const {
    if (nontemporal) return _mm256_stream_ps(to, lanes);
    _mm256_storeu_ps(to, lanes);
  }
};

ONEPASS_HD void store_finite(Wide v, BFloat16* to, bool nontemporal) {
  const __m256i bits = _mm256_castps_si256(v.lanes);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m128i packed =
      _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  if (nontemporal) return _mm_stream_si128((__m128i*)to, packed);
  _mm_storeu_si128((__m128i*)to, packed);
}
#else
constexpr int64_t kWide = 0;
#endif

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
ONEPASS_HD void store_finite(Wide v, float* to, bool nontemporal) { v.store(to, nontemporal); }
#endif

}  // namespace onepass::ONEPASS_ISA
