// kept_rows.h - which elements a dropout keeps, a row of flags at a time, on the CPU. CUDA: kept_packs.cuh.
//
// A flag is one byte, 1 or 0: whether an element is kept. Draws are bytes, too, and become flags in place.
//
// Ties, one element in 256, would cost more than all draws if a branch decided on each of them: a
// mispredicted one takes as long as 60 elements. So their places are collected with few branches, and their
// second draws made many at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "loops/philox_blocks.h"
#include "math/dropout.h"

namespace onepass::ONEPASS_ISA {

constexpr int kEach = math::kDrawsPerBlock;
constexpr int kDrawsAtOnce = kEach * kBlocksAtOnce;
constexpr int kTiesAtOnce = 16;

// drawn[4 b .. 4 b + 3]: the words of block[b].
ONEPASS_WALK inline void draw_first(const math::Dropout dropout, const uint64_t* __restrict block,
                                    uint32_t* __restrict drawn) {
  draw_numbered(block, math::kFirstDraw[0], math::kFirstDraw[1], dropout.seed, drawn);
}

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

// decided[k]: 255 if the second draw of element[k] keeps it, else `dropped`.
ONEPASS_WALK inline void draw_second(const math::Dropout dropout, const uint64_t* __restrict element,
                                     uint8_t dropped, uint8_t* __restrict decided) {
  alignas(64) uint32_t words[4 * kTiesAtOnce];
  draw_numbered<kTiesAtOnce / kBlockLanes>(element, math::kSecondDraw[0], math::kSecondDraw[1], dropout.seed,
                                           words);
  // No choice: as a branch it would be mispredicted every other time.
  for (int k = 0; k < kTiesAtOnce; ++k) {
    decided[k] = uint8_t(dropped | (dropout.keeps_tie(words[4 * k]) * 255));
  }
}

// Decides ties among `count` draws of whole batches: a draw becomes 255 or 0, so that comparing it with the
// bound that is returned tells whether its element is kept. number(i): of the element that drawn[i] is of.
// drawn has one byte more, for writes that do not count.
template <class Number>
inline uint8_t decide_ties(const math::Dropout& dropout, uint8_t* drawn, int64_t count,
                           const Number& number) {
  const uint8_t tie = uint8_t(dropout.first);
  if (!dropout.has_ties()) return tie;
  // A kept tie must lie at the bound or above, a dropped one below.
  const uint8_t bound = tie < 255 ? uint8_t(tie + 1) : 255, dropped = tie < 255 ? tie : 0;
  constexpr int64_t kPart = 2048;
  for (int64_t begin = 0; begin < count; begin += kPart) {
    const int64_t end = begin + kPart < count ? begin + kPart : count;
    int32_t at[kPart + kTiesAtOnce];
    int ties = 0;
    for (int64_t i = begin; i < end; i += 64) {
      uint64_t found = equal_bytes(drawn + i, tie);
      // One without a branch; there are rarely more.
      at[ties] = int32_t(i) + __builtin_ctzll(found | 1ull << 63);
      ties += found != 0;
      for (found &= found - 1; found; found &= found - 1) at[ties++] = int32_t(i) + __builtin_ctzll(found);
    }
    for (int k = 0; k < kTiesAtOnce; ++k) at[ties + k] = int32_t(count);  // the byte that does not count
    for (int t = 0; t < ties; t += kTiesAtOnce) {
      alignas(64) uint64_t element[kTiesAtOnce];
      uint8_t decided[kTiesAtOnce];
      for (int k = 0; k < kTiesAtOnce; ++k) element[k] = number(at[t + k]);
      draw_second(dropout, element, dropped, decided);
      for (int k = 0; k < kTiesAtOnce; ++k) drawn[at[t + k]] = decided[k];
    }
  }
  return bound;
}

ONEPASS_WALK inline void compare_row(const uint8_t* drawn, uint8_t bound, uint8_t* kept, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) kept[i] = drawn[i] >= bound ? 1 : 0;
}

struct Nothing {
  ONEPASS_HD void operator()(int64_t) const {}
};

// kept[0 .. n) of the elements from `first` on in logical order. beside(i), i = 0, 1, ...: see
// draw_blocks_from; it may not be called at all.
template <class Beside = Nothing>
inline void draw_row(const math::Dropout& dropout, int64_t first, int64_t n, uint8_t* kept,
                     const Beside& beside = {}) {
  if (dropout.drops_all()) {
    std::memset(kept, 0, size_t(n));
    return;
  }
  constexpr int64_t kPart = 2048 + kDrawsAtOnce;
  static_assert(kPart % kDrawsAtOnce == 0, "whole batches");
  alignas(64) uint8_t drawn[kPart + 64];
  for (int64_t i = 0; i < n;) {
    const int64_t skip = (first + i) % kEach, begin = first + i - skip;
    const int64_t here = kPart - skip < n - i ? kPart - skip : n - i;
    const int64_t count = (skip + here + kDrawsAtOnce - 1) / kDrawsAtOnce * kDrawsAtOnce;
    draw_blocks_from(uint64_t(begin / kEach), math::kFirstDraw[0], math::kFirstDraw[1], dropout.seed,
                     count / kDrawsAtOnce, beside, reinterpret_cast<uint32_t*>(drawn));
    const uint8_t bound =
        decide_ties(dropout, drawn, count, [&](int32_t at) { return uint64_t(begin + at); });
    compare_row(drawn + skip, bound, kept + i, here);
    i += here;
  }
}

// Draws for a run of positions of several channels, which lie apart in logical order: blocks are collected
// from all channels until they are worth drawing. kept[k * width + i] is position k of channel i.
class BlockDraws {
 public:
  BlockDraws(const math::Dropout& dropout, int64_t width) : dropout_(dropout), width_(width) {}
  int64_t width() const { return width_; }
  // n elements from `first` on, one channel's, to be written from `to` on.
  void add(int64_t first, int64_t n, uint8_t* to) {
    for (int64_t block = first / kEach; block * kEach < first + n; ++block) {
      const int64_t offset = block * kEach - first;
      block_[count_] = uint64_t(block);
      target_[count_] = {to + offset * width_, offset < 0 ? int(-offset) : 0,
                         n - offset < kEach ? int(n - offset) : int(kEach)};
      if (++count_ == kBlocksAtOnce) flush();
    }
  }
  void flush() {
    alignas(64) uint8_t drawn[kDrawsAtOnce + 64];
    for (int b = count_; b < kBlocksAtOnce; ++b) block_[b] = 0;
    uint8_t bound = 1;
    if (dropout_.drops_all()) {
      std::memset(drawn, 0, kDrawsAtOnce);
    } else if (count_ > 0) {
      draw_first(dropout_, block_, reinterpret_cast<uint32_t*>(drawn));
      bound = decide_ties(dropout_, drawn, kDrawsAtOnce, [this](int32_t at) {
        return block_[at / kEach % kBlocksAtOnce] * kEach + uint64_t(at % kEach);
      });
    }
    for (int b = 0; b < count_; ++b) {
      const Target& target = target_[b];
      for (int k = target.begin; k < target.end; ++k) {
        target.to[k * width_] = drawn[b * kEach + k] >= bound ? 1 : 0;
      }
    }
    count_ = 0;
  }

 private:
  struct Target {
    uint8_t* to;  // of the block's first draw, which may lie before the run
    int begin, end;
  };
  const math::Dropout& dropout_;
  int64_t width_;
  int count_ = 0;
  uint64_t block_[kBlocksAtOnce];
  Target target_[kBlocksAtOnce];
};

}  // namespace onepass::ONEPASS_ISA
