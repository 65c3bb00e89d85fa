// convert.h - stored elements to and from the arithmetic type (float or double), one by one, in pairs and in
// strips, on the CPU. GPU: packs.cuh.
//
// Rounding is to nearest even, as in torch; a nan stays a nan. Compiled once per instruction set (the
// namespace ONEPASS_ISA). Float16 has instructions of its own on x86, which GCC 12 does not vectorise to;
// everything else is plain code that it does.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "core/bits.h"
#include "core/compiler.h"
#include "core/dtype.h"

namespace onepass::ONEPASS_ISA {

ONEPASS_HD float from_bfloat16(uint16_t stored) { return float_of(uint32_t(stored) << 16); }

// The value rounded to bfloat16, in the high half; the low half holds rubbish. Not for a nan with bits in its
// low half, which could be rounded to something else. Arithmetic on bfloat16s and finite constants makes no
// such nan: those it passes on have an empty low half, as has the one it makes itself.
ONEPASS_HD uint32_t round_to_high_half(float value) {
  const uint32_t bits = bits_of(value);
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

ONEPASS_HD uint16_t to_bfloat16(float value) {
  return uint16_t(value != value ? 0x7fc0u : round_to_high_half(value) >> 16);
}

// Two neighbours in one 32-bit word, the earlier one in its low half (x86 and ARM are little-endian). Wide
// code then handles whole words and never moves halves between lanes.
struct BFloat16Pair {
  float first, second;
};

ONEPASS_HD BFloat16Pair from_bfloat16_pair(const uint16_t* stored) {
  uint32_t word;
  std::memcpy(&word, stored, sizeof word);
  return {float_of(word << 16), float_of(word & 0xffff0000u)};
}

// Values as round_to_high_half takes them.
ONEPASS_HD void to_bfloat16_pair(BFloat16Pair pair, uint16_t* stored) {
  const uint32_t word =
      round_to_high_half(pair.first) >> 16 | (round_to_high_half(pair.second) & 0xffff0000u);
  std::memcpy(stored, &word, sizeof word);
}

ONEPASS_HD float from_float16(uint16_t stored) {
  const uint32_t sign = uint32_t(stored & 0x8000u) << 16;
  const uint32_t magnitude = uint32_t(stored & 0x7fffu) << 13;
  // 2^112 moves the exponent's bias from 15 to 127 and normalises subnormals on the way; inf and nan (all
  // exponent bits set) then lack the top of float's exponent.
  const float scaled = float_of(magnitude) * 0x1p112f;
  const uint32_t special = (stored & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return float_of(bits_of(scaled) | special | sign);
}

ONEPASS_HD uint16_t to_float16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal results: rebias the exponent (112 << 23) and round the 13 dropped bits to even.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14 the addition of 1/2 lets the float unit round to the subnormal grid of 2^-24.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return uint16_t(sign | (magnitude >= 0x477ff000u ? special : finite));
}

inline void float16_to_floats(const uint16_t* __restrict stored, float* __restrict values, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(stored + i));
    _mm256_storeu_ps(values + i, _mm256_cvtph_ps(packed));
  }
#endif
  for (; i < n; ++i) values[i] = from_float16(stored[i]);
}

inline void floats_to_float16(const float* __restrict values, uint16_t* __restrict stored, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i packed = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(stored + i), packed);
  }
#endif
  for (; i < n; ++i) stored[i] = to_float16(values[i]);
}

// How loops see stored elements: S is float, double or this, and the arithmetic type T is double for double
// and float for the others. A float16, and a bfloat16 that is worked on before the loop, passes through a
// strip of floats.
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

// values[0 .. n) = stored[begin .. begin + n), widened or narrowed to T.
template <class T>
void load_strip(DType dtype, const void* stored, int64_t begin, T* __restrict values, int64_t n) {
  switch (dtype) {
    case DType::kFloat32: {
      const float* from = static_cast<const float*>(stored) + begin;
      for (int64_t i = 0; i < n; ++i) values[i] = T(from[i]);
      return;
    }
    case DType::kFloat64: {
      const double* from = static_cast<const double*>(stored) + begin;
      for (int64_t i = 0; i < n; ++i) values[i] = T(from[i]);
      return;
    }
    case DType::kBFloat16: {
      const uint16_t* from = static_cast<const uint16_t*>(stored) + begin;
      for (int64_t i = 0; i < n; ++i) values[i] = T(from_bfloat16(from[i]));
      return;
    }
    case DType::kFloat16: {
      const uint16_t* from = static_cast<const uint16_t*>(stored) + begin;
      if constexpr (sizeof(T) == sizeof(float)) {
        float16_to_floats(from, values, n);
      } else {
        for (int64_t i = 0; i < n; ++i) values[i] = T(from_float16(from[i]));
      }
      return;
    }
  }
}

// stored[begin .. begin + n) = values[0 .. n), rounded. Only lists that are narrower than the arithmetic
// are written through here: T is float.
inline void store_strip(DType dtype, void* stored, int64_t begin, const float* __restrict values, int64_t n) {
  uint16_t* to = static_cast<uint16_t*>(stored) + begin;
  if (dtype == DType::kFloat16) {
    floats_to_float16(values, to, n);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = to_bfloat16(values[i]);
  }
}

}  // namespace onepass::ONEPASS_ISA
