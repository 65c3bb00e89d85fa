// kept_rows.h - which elements a dropout keeps, a row of flags at a time, on the CPU. CUDA: kept_packs.cuh.
//
// A flag is one byte, 1 or 0: whether an element is kept. Draws are bytes, too, and become flags in place.
// Blocks of draws are made sixteen at a time, which is what wide code needs, in 64-bit lanes (core/philox.h).
//
// Ties, one element in 256, would cost more than all draws if a branch decided on each of them: a
// mispredicted one takes as long as 60 elements. So their places are collected without branches, and their
// second draws made eight at a time.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/compiler.h"
#include "math/dropout.h"

namespace onepass::ONEPASS_ISA {

constexpr int kEach = math::kDrawsPerBlock;
constexpr int kBlocksAtOnce = 16;
constexpr int kDrawsAtOnce = kEach * kBlocksAtOnce;
constexpr int kTiesAtOnce = 8;

// drawn[4 b .. 4 b + 3]: the words of block[b].
ONEPASS_WALK inline void draw_blocks(const math::Dropout dropout, const uint64_t* __restrict block,
                                     uint32_t* __restrict drawn) {
  ONEPASS_INDEPENDENT
  for (int b = 0; b < kBlocksAtOnce; ++b) {
    const PhiloxWords draws = dropout.draws(block[b]);
    for (int w = 0; w < 4; ++w) drawn[4 * b + w] = draws.word[w];
  }
}

// The same of batches of blocks that follow each other, whose numbers have one high half. beside(i): what is
// to be done while batch i is drawn.
template <class Beside>
ONEPASS_WALK void draw_run(const math::Dropout dropout, uint64_t first, int64_t batches, const Beside& beside,
                           uint32_t* __restrict drawn) {
  const uint32_t high = uint32_t(first >> 32);
  for (int64_t i = 0; i < batches; ++i) {
    const uint32_t low = uint32_t(first) + uint32_t(i * kBlocksAtOnce);
    uint32_t* words = drawn + i * kBlocksAtOnce * 4;
    beside(i);
    ONEPASS_INDEPENDENT
    for (uint32_t b = 0; b < uint32_t(kBlocksAtOnce); ++b) {
      const PhiloxWords draws = philox({{low + b, high, 0, 0}}, dropout.seed);
      for (uint32_t w = 0; w < 4; ++w) words[4 * b + w] = draws.word[w];
    }
  }
}

// drawn[k]: the second draw of element first + at[k].
ONEPASS_WALK inline void second_draws(const math::Dropout dropout, uint64_t first,
                                      const int32_t* __restrict at, uint32_t* __restrict drawn) {
  ONEPASS_INDEPENDENT
  for (int k = 0; k < kTiesAtOnce; ++k) drawn[k] = dropout.second_draw(first + uint64_t(uint32_t(at[k])));
}

// drawn[k]: the second draw of element[k].
ONEPASS_WALK inline void second_draws(const math::Dropout dropout, const uint64_t* __restrict element,
                                      uint32_t* __restrict drawn) {
  ONEPASS_INDEPENDENT
  for (int k = 0; k < kTiesAtOnce; ++k) drawn[k] = dropout.second_draw(element[k]);
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

// Decides ties among `count` draws of whole batches: a draw becomes 255 or 0, so that comparing it with the
// bound that is returned tells whether its element is kept. draw(at, second): the second draws of
// kTiesAtOnce elements, of which drawn[at[k]] are the first. drawn has one byte more, for writes that do not
// count.
template <class Draw>
inline uint8_t decide_ties(const math::Dropout& dropout, uint8_t* drawn, int64_t count, const Draw& draw) {
  const uint8_t tie = uint8_t(dropout.first);
  if (!dropout.has_ties()) return tie;
  // A kept tie must lie at the bound or above, a dropped one below.
  const uint8_t bound = tie < 255 ? uint8_t(tie + 1) : 255, dropped = tie < 255 ? tie : 0;
  constexpr int64_t kPart = 4 * kDrawsAtOnce;
  for (int64_t begin = 0; begin < count; begin += kPart) {
    const int64_t end = begin + kPart < count ? begin + kPart : count;
    int32_t at[kPart + 2 * kTiesAtOnce];
    int ties = 0;
    for (int64_t i = begin; i < end; i += 64) {
      uint64_t found = equal_bytes(drawn + i, tie);
      // Two without a branch; there are rarely more.
      for (int k = 0; k < 2; ++k) {
        at[ties] = int32_t(i) + __builtin_ctzll(found | 1ull << 63);
        ties += found != 0;
        found &= found - 1;
      }
      for (; found; found &= found - 1) at[ties++] = int32_t(i) + __builtin_ctzll(found);
    }
    for (int k = 0; k < kTiesAtOnce; ++k) at[ties + k] = int32_t(count);  // the byte that does not count
    for (int t = 0; t < ties; t += kTiesAtOnce) {
      uint32_t second[kTiesAtOnce];
      draw(at + t, second);
      for (int k = 0; k < kTiesAtOnce; ++k) drawn[at[t + k]] = dropout.keeps_tie(second[k]) ? 255 : dropped;
    }
  }
  return bound;
}

ONEPASS_WALK inline void compare_row(const uint8_t* drawn, uint8_t bound, uint8_t* kept, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) kept[i] = drawn[i] >= bound ? 1 : 0;
}

template <class Beside>
inline void draw_batches(const math::Dropout& dropout, uint64_t first, int64_t batches, const Beside& beside,
                         uint32_t* drawn) {
  const uint64_t last = first + uint64_t(batches * kBlocksAtOnce) - 1;
  if (first >> 32 == last >> 32) return draw_run(dropout, first, batches, beside, drawn);
  for (int64_t i = 0; i < batches; ++i) {
    uint64_t block[kBlocksAtOnce];
    for (int b = 0; b < kBlocksAtOnce; ++b) block[b] = first + uint64_t(i * kBlocksAtOnce + b);
    beside(i);
    draw_blocks(dropout, block, drawn + i * kBlocksAtOnce * 4);
  }
}

struct Nothing {
  ONEPASS_HD void operator()(int64_t) const {}
};

// kept[0 .. n) of the elements from `first` on in logical order. beside(i), i = 0, 1, ...: see draw_run; it
// may not be called at all.
template <class Beside = Nothing>
inline void draw_row(const math::Dropout& dropout, int64_t first, int64_t n, uint8_t* kept,
                     const Beside& beside = {}) {
  if (dropout.drops_all()) {
    std::memset(kept, 0, size_t(n));
    return;
  }
  constexpr int64_t kPart = 4 * kDrawsAtOnce;
  alignas(64) uint8_t drawn[kPart + 64];
  for (int64_t i = 0; i < n;) {
    const int64_t skip = (first + i) % kEach, begin = first + i - skip;
    const int64_t here = kPart - skip < n - i ? kPart - skip : n - i;
    const int64_t count = (skip + here + kDrawsAtOnce - 1) / kDrawsAtOnce * kDrawsAtOnce;
    draw_batches(dropout, uint64_t(begin / kEach), count / kDrawsAtOnce, beside,
                 reinterpret_cast<uint32_t*>(drawn));
    const uint8_t bound = decide_ties(dropout, drawn, count, [&](const int32_t* at, uint32_t* second) {
      second_draws(dropout, uint64_t(begin), at, second);
    });
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
      draw_blocks(dropout_, block_, reinterpret_cast<uint32_t*>(drawn));
      bound = decide_ties(dropout_, drawn, kDrawsAtOnce, [this](const int32_t* at, uint32_t* second) {
        uint64_t element[kTiesAtOnce];
        for (int k = 0; k < kTiesAtOnce; ++k) {
          const uint64_t block = block_[at[k] / kEach % kBlocksAtOnce];
          element[k] = block * kEach + uint64_t(at[k] % kEach);
        }
        second_draws(dropout_, element, second);
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
