// move_blocks.h - bytes of pixels that become values without interpolation, on the CPU, a block of pixels at
// a time: shuffles in registers turn the pixels around and take them apart, a formula follows, and the values
// go straight to where they are stored.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "loops/images/pixels.h"
#include "loops/images/wide.h"
#include "math/augment.h"
#include "math/color.h"
#include "math/spread_bytes.h"

namespace onepass::ONEPASS_ISA {

constexpr int64_t kMovedChannels = 4;                    // at most
constexpr int64_t kBlock = kWide > 0 ? kWide : 16;       // pixels
constexpr int64_t kBlockMost = kMovedChannels * kBlock;  // bytes of a block at most

// A byte comes to a formula as kSpread times its value, rounded once. Four copies of it side by side are 32
// bits of the value, and what they lack is more than half of a float's last bit, so the value is rounded
// upwards. Three copies are exact as a float, and a 2^24th more is right to twice the bits.
#if defined(__AVX512F__)
constexpr int kCopies = 4;
constexpr float kSpread = 0x1p32f;
#elif ONEPASS_FUSES
constexpr int kCopies = 3;
constexpr float kSpread = 0x1p24f;
#else
constexpr int kCopies = 1;
constexpr float kSpread = 1;
#endif
ONEPASS_HD float spread_byte(uint8_t byte) { return math::spread_byte(byte, kSpread); }

using SpreadLine = math::SpreadLine<bool(ONEPASS_FUSES)>;
using SpreadHalves = math::SpreadHalves<bool(ONEPASS_FUSES)>;
using SpreadProduct = math::SpreadProduct<bool(ONEPASS_FUSES)>;
struct SpreadDivided : math::SpreadDivided {
  constexpr SpreadDivided() : math::SpreadDivided{1 / kSpread} {}
};

ONEPASS_HD void narrow_finite(float v, float& stored) { stored = v; }
ONEPASS_HD void narrow_finite(float v, BFloat16& stored) {
  stored.bits = uint16_t(round_to_high_half(v) >> 16);
}

// A formula's value as it is stored.
template <class F>
constexpr bool kRoundsUp = std::is_same_v<F, SpreadHalves>;
template <class F, class O>
ONEPASS_HD void narrow_of(const F&, float v, O& stored) {
  if constexpr (kRoundsUp<F> && std::is_same_v<O, BFloat16>) {
    stored.bits = uint16_t((bits_of(v) + 0x8000u) >> 16);
  } else {
    narrow_finite(v, stored);
  }
}

// A block's elements come in vectors of kBlock: one a channel, or with the channels last one after the other.
// Which byte of the block each element is.
struct ByteOrder {
  alignas(64) int32_t words[kMovedChannels][16];  // for each four elements the four words with their bytes
  alignas(64) uint8_t bytes[kMovedChannels][64];  // kCopies times the byte of those words, and kZero
  uint8_t source[kBlockMost];
  static constexpr uint8_t kZero = 0x80;

  static ByteOrder make(int64_t channels, bool channels_last, bool forwards) {
    ByteOrder order{};
    for (int64_t k = 0; k < channels * kBlock; ++k) {
      const int64_t pixel = channels_last ? k / channels : k % kBlock,
                    channel = channels_last ? k % channels : k / kBlock;
      order.source[k] = uint8_t((forwards ? pixel : kBlock - 1 - pixel) * channels + channel);
    }
    for (int64_t k = 0; k < channels * kBlock; k += 4) {
      const int64_t v = k / kBlock, at = k % kBlock;
      int first = order.source[k];
      for (int e = 1; e < 4; ++e) first = order.source[k + e] < first ? order.source[k + e] : first;
      first /= 4;
      for (int e = 0; e < 4; ++e) {
        order.words[v][at + e] = (first + e) % int(kBlock);
        uint8_t* copies = &order.bytes[v][4 * (at + e)];
        for (int copy = 0; copy < 4; ++copy)
          copies[copy] = copy < kCopies ? uint8_t(order.source[k + e] - 4 * first) : kZero;
      }
    }
    return order;
  }
};

// Blocks of an image's row: of the first one, and the bytes to the next.
struct BlockSource {
  const uint8_t* bytes;
  int64_t step;
  const ByteOrder* order;
};

// Three terms of a formula for each element.
struct BlockTerms {
  alignas(64) float term[3][kBlockMost];
};

// Where the first vector of the first block is stored, and how far from it the next of each.
template <class O>
struct BlockTarget {
  O* data;
  int64_t vector, block;
  bool nontemporal;

  BlockTarget from(int64_t first) const { return {data + first * block, vector, block, nontemporal}; }
};

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#if defined(__AVX512F__)
using Bytes = __m512i;
ONEPASS_HD Bytes load_words(const void* from) { return _mm512_loadu_si512(from); }
ONEPASS_HD Wide spread_bytes(Bytes block, Bytes words, Bytes bytes) {
  const __m512i spread = _mm512_shuffle_epi8(_mm512_maskz_permutexvar_epi32(kAll, words, block), bytes);
  return Wide(_mm512_maskz_cvt_roundepu32_ps(kAll, spread, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
}
// Two vectors as a line of bfloat16.
template <bool kUp>
ONEPASS_HD void store_pair(Wide a, Wide b, BFloat16* to, bool nontemporal) {
  const auto rounded = [](Wide v) ONEPASS_INLINED {
    const __m512i bits = _mm512_castps_si512(v.lanes);
    if (kUp) return _mm512_add_epi32(bits, _mm512_set1_epi32(0x8000));
    const __m512i odd = _mm512_and_si512(_mm512_maskz_srli_epi32(kAll, bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  };
  alignas(64) static constexpr uint16_t kHigh[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                     23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                     45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i line = _mm512_permutex2var_epi16(rounded(a), _mm512_load_si512(kHigh), rounded(b));
  if (nontemporal) return _mm512_stream_si512((__m512i*)to, line);
  _mm512_storeu_si512(to, line);
}
template <int kChannels>
ONEPASS_HD Bytes load_block(const uint8_t* from) {
  return _mm512_maskz_loadu_epi32(__mmask16((1u << (4 * kChannels)) - 1), from);
}
#else
using Bytes = __m256i;
ONEPASS_HD Bytes load_words(const void* from) { return _mm256_loadu_si256((const __m256i*)from); }
ONEPASS_HD Wide spread_bytes(Bytes block, Bytes words, Bytes bytes) {
  const __m256i spread = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(block, words), bytes);
  const Wide copies(_mm256_cvtepi32_ps(spread));
  return fused(copies, Wide(1 / kSpread), copies);
}
template <bool kUp>
ONEPASS_HD void store_pair(Wide a, Wide b, BFloat16* to, bool nontemporal) {
  const auto rounded = [](Wide v) ONEPASS_INLINED {
    const __m256i bits = _mm256_castps_si256(v.lanes);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i more = kUp ? _mm256_set1_epi32(0x8000) : _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    return _mm256_srli_epi32(_mm256_add_epi32(bits, more), 16);
  };
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded(a), rounded(b)), 0xd8);
  if (nontemporal) return _mm256_stream_si256((__m256i*)to, halves);
  _mm256_storeu_si256((__m256i*)to, halves);
}
template <int kChannels>
ONEPASS_HD Bytes load_block(const uint8_t* from) {
  if constexpr (kChannels == 4) return load_words(from);
  const __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_epi32((const int*)from, _mm256_cmpgt_epi32(_mm256_set1_epi32(2 * kChannels), place));
}
#endif

// What stays in registers while blocks go by. Channels that go to planes of their own share `words`.
template <int kChannels, bool kPlanes>
struct BlockShuffles {
  Bytes words[kPlanes ? 1 : kChannels], bytes[kChannels];
  ONEPASS_HD explicit BlockShuffles(const ByteOrder& order) {
    ONEPASS_UNROLLED
    for (int v = 0; v < kChannels; ++v) {
      if (v == 0 || !kPlanes) words[v] = load_words(order.words[v]);
      bytes[v] = load_words(order.bytes[v]);
    }
  }
  ONEPASS_HD Wide spread(Bytes block, int v) const {
    return spread_bytes(block, words[kPlanes ? 0 : v], bytes[v]);
  }
};

// Blocks that become values by a formula.
template <int kChannels, bool kPlanes, class F>
struct OneImage {
  const F& formula;
  const BlockSource& from;
  const BlockTerms& terms;
  BlockShuffles<kChannels, kPlanes> shuffles;

  // Block i.
  struct Loaded {
    Bytes own;
  };
  ONEPASS_HD Loaded load(int64_t i) const { return {load_block<kChannels>(from.bytes + i * from.step)}; }
  ONEPASS_HD Wide make(const Loaded& loaded, int v) const {
    return formula(shuffles.spread(loaded.own, v), Wide::load(terms.term[0] + v * kBlock),
                   Wide::load(terms.term[1] + v * kBlock), Wide::load(terms.term[2] + v * kBlock));
  }
};
template <int kChannels, bool kPlanes, class F>
struct TwoImages {
  OneImage<kChannels, kPlanes, F> own, other;
  math::Mixup mix;

  struct Loaded {
    Bytes own, other;
  };
  ONEPASS_HD Loaded load(int64_t i) const { return {own.load(i).own, other.load(i).own}; }
  ONEPASS_HD Wide make(const Loaded& loaded, int v) const {
    return mix(own.make({loaded.own}, v), other.make({loaded.other}, v));
  }
};

template <int kChannels, class Made>
ONEPASS_HD void store_blocks(const Made& made, const BlockTarget<float>& to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto loaded = made.load(i);
    ONEPASS_UNROLLED
    for (int v = 0; v < kChannels; ++v)
      made.make(loaded, v).store(to.data + i * to.block + v * to.vector, to.nontemporal);
  }
}
// Two blocks at a time fill the same lines.
template <int kChannels, bool kPlanes, bool kUp, class Made>
ONEPASS_HD void store_halves(const Made& made, const BlockTarget<BFloat16>& to, int64_t n) {
  const auto single = [&](int64_t i) ONEPASS_INLINED {
    const auto loaded = made.load(i);
    ONEPASS_UNROLLED
    for (int v = 0; v < kChannels; ++v)
      store_finite(made.make(loaded, v), to.data + i * to.block + v * to.vector, to.nontemporal);
  };
  constexpr int64_t kPair = 2 * kBlock * int64_t(sizeof(BFloat16));
  int64_t i = 0;
  if (n > 0 && reinterpret_cast<uintptr_t>(to.data) % kPair != 0) single(i++);
  for (; i + 2 <= n; i += 2) {
    const auto first = made.load(i), second = made.load(i + 1);
    BFloat16* out = to.data + i * to.block;
    ONEPASS_UNROLLED
    for (int v = 0; v < kChannels; ++v) {
      if constexpr (kPlanes) {
        store_pair<kUp>(made.make(first, v), made.make(second, v), out + v * to.vector, to.nontemporal);
      } else {
        const int a = 2 * v, b = 2 * v + 1;
        store_pair<kUp>(made.make(a < kChannels ? first : second, a % kChannels),
                        made.make(b < kChannels ? first : second, b % kChannels), out + a * kBlock,
                        to.nontemporal);
      }
    }
  }
  if (i < n) single(i);
}
template <int kChannels, bool kPlanes, bool kUp, class Made, class O>
ONEPASS_HD void store_made(const Made& made, const BlockTarget<O>& to, int64_t n) {
  if constexpr (std::is_same_v<O, float>) {
    store_blocks<kChannels>(made, to, n);
  } else {
    store_halves<kChannels, kPlanes, kUp>(made, to, n);
  }
}

template <int kChannels, bool kPlanes, class F, class O>
ONEPASS_WALK void convert_blocks(const F formula, const BlockSource from, const BlockTerms& terms,
                                 const BlockTarget<O> to, int64_t n) {
  const BlockTerms kept = terms;
  const OneImage<kChannels, kPlanes, F> made{formula, from, kept,
                                             BlockShuffles<kChannels, kPlanes>(*from.order)};
  store_made<kChannels, kPlanes, kRoundsUp<F>>(made, to, n);
}

// Two images' blocks mixed.
template <int kChannels, bool kPlanes, class F, class O>
ONEPASS_WALK void mix_blocks(const F formula, const BlockSource own, const BlockSource other,
                             const math::Mixup mix, const BlockTerms& terms, const BlockTarget<O> to,
                             int64_t n) {
  using One = OneImage<kChannels, kPlanes, F>;
  using Shuffles = BlockShuffles<kChannels, kPlanes>;
  const BlockTerms kept = terms;
  const TwoImages<kChannels, kPlanes, F> made{One{formula, own, kept, Shuffles(*own.order)},
                                              One{formula, other, kept, Shuffles(*other.order)}, mix};
  store_made<kChannels, kPlanes, false>(made, to, n);
}
#else
// The values of a block.
template <int kChannels, class F>
ONEPASS_HD void make_block(const F& formula, const uint8_t* from, const ByteOrder& order,
                           const BlockTerms& terms, float* values) {
  uint8_t bytes[kChannels * kBlock];
  for (int64_t k = 0; k < kChannels * kBlock; ++k) bytes[k] = from[order.source[k]];
  for (int64_t k = 0; k < kChannels * kBlock; ++k) {
    values[k] = formula(spread_byte(bytes[k]), terms.term[0][k], terms.term[1][k], terms.term[2][k]);
  }
}
template <int kChannels, class F, class O>
ONEPASS_HD void store_block(const F& formula, const float* values, const BlockTarget<O>& to, int64_t i) {
  for (int v = 0; v < kChannels; ++v) {
    O* stored = to.data + i * to.block + v * to.vector;
    for (int64_t k = 0; k < kBlock; ++k) narrow_of(formula, values[v * kBlock + k], stored[k]);
  }
}

template <int kChannels, bool kPlanes, class F, class O>
ONEPASS_WALK void convert_blocks(const F formula, const BlockSource from, const BlockTerms& terms,
                                 const BlockTarget<O> to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float values[kBlockMost];
    make_block<kChannels>(formula, from.bytes + i * from.step, *from.order, terms, values);
    store_block<kChannels>(formula, values, to, i);
  }
}

template <int kChannels, bool kPlanes, class F, class O>
ONEPASS_WALK void mix_blocks(const F formula, const BlockSource own, const BlockSource other,
                             const math::Mixup mix, const BlockTerms& terms, const BlockTarget<O> to,
                             int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float values[kBlockMost], others[kBlockMost];
    make_block<kChannels>(formula, own.bytes + i * own.step, *own.order, terms, values);
    make_block<kChannels>(formula, other.bytes + i * other.step, *other.order, terms, others);
    for (int64_t k = 0; k < kChannels * kBlock; ++k) values[k] = mix(values[k], others[k]);
    store_block<kChannels>(mix, values, to, i);
  }
}
#endif

// One block of values to where they are stored.
template <class O>
ONEPASS_HD void put_block(const float* values, int64_t channels, const BlockTarget<O>& to) {
  for (int64_t v = 0; v < channels; ++v) {
    O* stored = to.data + v * to.vector;
#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
    store_finite(Wide::load(values + v * kBlock), stored, to.nontemporal);
#else
    for (int64_t k = 0; k < kBlock; ++k) narrow_finite(values[v * kBlock + k], stored[k]);
#endif
  }
}

}  // namespace onepass::ONEPASS_ISA
