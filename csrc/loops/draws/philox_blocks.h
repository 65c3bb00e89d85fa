// philox_blocks.h - the words of many Philox blocks at once, on the CPU.
//
// The rounds are core/philox.h's, over vectors of 64-bit lanes, a lane each block. Compilers do not see that
// the products are those of 32-bit halves: their AVX2 code took 3.7 times as long, their AVX-512 code 1.6
// times. Several vectors go side by side, since each product waits for the one before.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/compiler.h"
#include "core/philox.h"

namespace onepass::ONEPASS_ISA {

#if defined(__SSE2__)

#if defined(__AVX512F__)
constexpr int kBlockLanes = 8, kBlockVectors = 4;
#elif defined(__AVX2__)
constexpr int kBlockLanes = 4, kBlockVectors = 4;
#else
constexpr int kBlockLanes = 2, kBlockVectors = 8;
#endif

// A word each of kBlockLanes blocks, in 64 bits.
struct BlockWords {
  typedef uint64_t Lanes __attribute__((vector_size(8 * kBlockLanes)));
  Lanes lanes;
};

ONEPASS_HD BlockWords operator>>(BlockWords a, int by) { return {a.lanes >> by}; }
ONEPASS_HD BlockWords operator^(BlockWords a, BlockWords b) { return {a.lanes ^ b.lanes}; }
ONEPASS_HD BlockWords operator+(BlockWords a, uint64_t b) { return {a.lanes + b}; }
ONEPASS_HD BlockWords low_product(BlockWords a, uint32_t constant) {
#if defined(__AVX512F__)
  // With a mask of all lanes: without one GCC 12 warns of its own header.
  return {(BlockWords::Lanes)_mm512_maskz_mul_epu32(0xff, (__m512i)a.lanes, _mm512_set1_epi64(constant))};
#elif defined(__AVX2__)
  return {(BlockWords::Lanes)_mm256_mul_epu32((__m256i)a.lanes, _mm256_set1_epi64x(constant))};
#else
  return {(BlockWords::Lanes)_mm_mul_epu32((__m128i)a.lanes, _mm_set1_epi64x(constant))};
#endif
}
ONEPASS_HD void set_words(BlockWords& words, uint32_t word) { words.lanes = BlockWords::Lanes{} + word; }

// words[4 b + w] = word w of the block in lane b.
ONEPASS_HD void store_words(BlockWords c0, BlockWords c1, BlockWords c2, BlockWords c3, uint32_t* words) {
  const BlockWords::Lanes low = (c0.lanes & 0xffffffffull) | c1.lanes << 32,
                          high = (c2.lanes & 0xffffffffull) | c3.lanes << 32;
#if defined(__AVX512F__)
  const __m512i first = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0),
                second = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
  _mm512_storeu_si512(words, _mm512_permutex2var_epi64((__m512i)low, first, (__m512i)high));
  _mm512_storeu_si512(words + 16, _mm512_permutex2var_epi64((__m512i)low, second, (__m512i)high));
#elif defined(__AVX2__)
  const __m256i even = _mm256_unpacklo_epi64((__m256i)low, (__m256i)high),
                odd = _mm256_unpackhi_epi64((__m256i)low, (__m256i)high);
  _mm256_storeu_si256((__m256i*)words, _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256((__m256i*)(words + 8), _mm256_permute2x128_si256(even, odd, 0x31));
#else
  _mm_storeu_si128((__m128i*)words, _mm_unpacklo_epi64((__m128i)low, (__m128i)high));
  _mm_storeu_si128((__m128i*)(words + 4), _mm_unpackhi_epi64((__m128i)low, (__m128i)high));
#endif
}

#else

constexpr int kBlockLanes = 1, kBlockVectors = 16;
using BlockWords = uint64_t;

ONEPASS_HD void store_words(uint64_t c0, uint64_t c1, uint64_t c2, uint64_t c3, uint32_t* words) {
  words[0] = uint32_t(c0);
  words[1] = uint32_t(c1);
  words[2] = uint32_t(c2);
  words[3] = uint32_t(c3);
}

#endif

constexpr int kBlocksAtOnce = kBlockLanes * kBlockVectors;

// c[w][v]: word w of the blocks number[v * kBlockLanes ..), of Philox of (number, c2, c3).
template <int kVectors>
ONEPASS_HD void run_numbered(const uint64_t* number, uint32_t c2, uint32_t c3, uint64_t key,
                             BlockWords (&c)[4][kVectors]) {
  for (int v = 0; v < kVectors; ++v) {
    std::memcpy(&c[0][v], number + v * kBlockLanes, sizeof(BlockWords));
    c[1][v] = c[0][v] >> 32;
    set_words(c[2][v], c2);
    set_words(c[3][v], c3);
  }
  philox_rounds(c, key);
}

// words[4 b .. 4 b + 3] = Philox of (number[b], c2, c3), 0 <= b < kVectors * kBlockLanes.
template <int kVectors = kBlockVectors>
ONEPASS_HD void draw_numbered(const uint64_t* number, uint32_t c2, uint32_t c3, uint64_t key,
                              uint32_t* words) {
  BlockWords c[4][kVectors];
  run_numbered(number, c2, c3, key, c);
  for (int v = 0; v < kVectors; ++v) {
    store_words(c[0][v], c[1][v], c[2][v], c[3][v], words + 4 * kBlockLanes * v);
  }
}

// word[b]: only word 0 of block b, in the low half.
template <int kVectors>
ONEPASS_HD void draw_words_0(const uint64_t* number, uint32_t c2, uint32_t c3, uint64_t key, uint64_t* word) {
  BlockWords c[4][kVectors];
  run_numbered(number, c2, c3, key, c);
  std::memcpy(word, c[0], sizeof c[0]);
}

// draw_numbered for the numbers from `first` on, `batches` times kBlocksAtOnce of them. beside(i): other
// work, called after each batch i, whose products it need not wait for.
template <class Beside>
ONEPASS_WALK void draw_blocks_from(uint64_t first, uint32_t c2, uint32_t c3, uint64_t key, int64_t batches,
                                   const Beside& beside, uint32_t* words) {
  alignas(64) uint64_t number[kBlocksAtOnce];
  for (int b = 0; b < kBlocksAtOnce; ++b) number[b] = first + uint64_t(b);
  for (int64_t i = 0; i < batches; ++i) {
    draw_numbered(number, c2, c3, key, words + 4 * kBlocksAtOnce * i);
    beside(i);
    for (int b = 0; b < kBlocksAtOnce; ++b) number[b] += kBlocksAtOnce;
  }
}

}  // namespace onepass::ONEPASS_ISA
