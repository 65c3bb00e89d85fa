// code_lanes.h - the codes of 16 elements at once (math/codes.h), by AVX-512.
//
// The same instructions as the plain formula. GCC 12 unpacks bytes in three steps where one does, and packs
// them in four: its decoding takes 2.5 times as long.
#pragma once

#include <cstdint>

#include "core/compiler.h"
#include "math/codes.h"

#if defined(__AVX512BW__)
#include <immintrin.h>

namespace onepass::ONEPASS_ISA {

constexpr int kCodeLanes = 16;
constexpr __mmask16 kAllLanes = 0xffff;  // without a mask GCC 12 warns of its own header

template <bool kSigned>
ONEPASS_HD void decode_lanes(const uint8_t* codes, uint32_t top, float* x) {
  using Code = math::StateCode<kSigned>;
  const auto all = [](uint32_t word) ONEPASS_INLINED { return _mm512_set1_epi32(int32_t(word)); };
  const __m512i code =
      _mm512_maskz_cvtepu8_epi32(kAllLanes, _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const __m512i u = kSigned ? _mm512_and_si512(code, all(0x7f)) : code;
  const __m512 level = _mm512_maskz_cvtepi32_ps(kAllLanes, _mm512_add_epi32(u, all(1)));
  const __m512i part = _mm512_sub_epi32(all(Code::kTopOfLevels), _mm512_castps_si512(level));
  const __m512i below = kSigned ? _mm512_maskz_slli_epi32(kAllLanes, part, 2)
                                : _mm512_maskz_srli_epi32(kAllLanes, _mm512_mullo_epi32(part, all(11)), 1);
  __m512i bits =
      _mm512_maskz_max_epi32(_mm512_test_epi32_mask(u, u), _mm512_sub_epi32(all(top), below), all(1));
  if (kSigned) {
    const __m512i sign = _mm512_maskz_slli_epi32(kAllLanes, code, 24);
    bits = _mm512_or_si512(bits, _mm512_and_si512(sign, all(math::kSignBit)));
  }
  _mm512_storeu_ps(x, _mm512_castsi512_ps(bits));
}

// lane: the number of the first one in its block.
template <bool kSigned>
ONEPASS_HD void encode_lanes(const float* x, uint32_t top, const math::BlockDither dither, uint32_t lane,
                             uint8_t* codes) {
  using Code = math::StateCode<kSigned>;
  const auto all = [](uint32_t word) ONEPASS_INLINED { return _mm512_set1_epi32(int32_t(word)); };
  const __m512i lanes = _mm512_mullo_epi32(
      _mm512_add_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), all(lane)),
      all(math::BlockDither::kLane));
  const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(x));
  const __m512i magnitude = _mm512_and_si512(bits, all(~math::kSignBit));
  const __m512i below = _mm512_sub_epi32(all(top), magnitude);
  const __m512i part = kSigned
                           ? _mm512_maskz_srai_epi32(kAllLanes, below, 2)
                           : _mm512_maskz_cvttps_epi32(kAllLanes, _mm512_maskz_cvtepi32_ps(kAllLanes, below) *
                                                                      _mm512_set1_ps(2.0f / 11.0f));
  const __m512i y = _mm512_maskz_cvttps_epi32(
      kAllLanes, _mm512_castsi512_ps(_mm512_sub_epi32(all(Code::kTopOfDithers), part)));
  const __m512i draw = _mm512_maskz_srli_epi32(kAllLanes, _mm512_add_epi32(lanes, all(dither.begin)), 16);
  const __m512i up = _mm512_maskz_srli_epi32(kAllLanes, _mm512_add_epi32(y, draw), 16);
  const __m512i u = _mm512_sub_epi32(up, all(1));
  const __mmask16 there = _mm512_test_epi32_mask(magnitude, magnitude);
  __m512i code;
  if (kSigned) {
    const __m512i sign = _mm512_and_si512(_mm512_maskz_srli_epi32(kAllLanes, bits, 24), all(0x80));
    code = _mm512_maskz_or_epi32(_mm512_mask_cmpgt_epi32_mask(there, u, all(0)), u, sign);
  } else {
    code = _mm512_maskz_max_epi32(there, u, all(1));
  }
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_maskz_cvtepi32_epi8(kAllLanes, code));
}

// The largest magnitude's bits, as a signed number.
ONEPASS_HD int32_t top_of_lanes(const float* x) {
  const __m256i mask = _mm256_set1_epi32(int32_t(~math::kSignBit));
  const auto eight = [=](int lane) ONEPASS_INLINED {
    return _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + lane)), mask);
  };
  const __m256i m =
      _mm256_max_epi32(_mm256_max_epi32(eight(0), eight(8)), _mm256_max_epi32(eight(16), eight(24)));
  __m128i r = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0x4e));
  r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0xb1));
  return _mm_cvtsi128_si32(r);
}

}  // namespace onepass::ONEPASS_ISA

#endif
