// kept.h - which elements a dropout keeps, as flags, on the CPU. CUDA: kept.cuh.
//
// A flag is one byte, 1 or 0: whether an element is kept (bytes.h). Draws are bytes, too, and become flags in
// place.
//
// Ties, one element in 256, would cost more than all draws if each had a branch of its own: a mispredicted
// branch takes as long as 60 elements. So their places are collected with few branches, and their second
// draws are made many at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "loops/common/bytes.h"
#include "loops/common/fetch.h"
#include "loops/draws/philox_blocks.h"
#include "loops/draws/seed.h"
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

ONEPASS_WALK inline void compare_bytes(const uint8_t* drawn, uint8_t bound, uint8_t* flags, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) flags[i] = math::Dropout::reaches(drawn[i], bound) ? 1 : 0;
}

// flags[0 .. n) by the first draws only, n a multiple of 64, where ties count as kept; `at` gets the places
// of ties and needs room for n. Returns how many there are. flags may be drawn.
ONEPASS_WALK inline int compare_draws(const uint8_t* drawn, uint8_t bound, uint8_t* flags, int64_t n,
                                      int32_t* __restrict at) {
  int ties = 0;
  for (int64_t i = 0; i < n; i += 64) {
    uint64_t found = equal_bytes(drawn + i, bound);
    ONEPASS_INDEPENDENT
    for (int64_t k = i; k < i + 64; ++k) flags[k] = math::Dropout::reaches(drawn[k], bound) ? 1 : 0;
    // The first tie without a branch; there are rarely more.
    at[ties] = int32_t(i) + __builtin_ctzll(found | 1ull << 63);
    ties += found != 0;
    for (found &= found - 1; found; found &= found - 1) at[ties++] = int32_t(i) + __builtin_ctzll(found);
  }
  return ties;
}

// flags[at[k]]: whether the second draw of element[k] keeps it.
ONEPASS_WALK inline void decide_ties(const math::Dropout dropout, const uint64_t* __restrict element,
                                     const int32_t* __restrict at, uint8_t* __restrict flags) {
  alignas(64) uint64_t word[kTiesAtOnce];
  draw_words_0<kTiesAtOnce / kBlockLanes>(element, math::kSecondDraw[0], math::kSecondDraw[1], dropout.seed,
                                          word);
  // Arithmetic and no branch, which would be mispredicted every other time.
  uint8_t kept[kTiesAtOnce];
  for (int k = 0; k < kTiesAtOnce; ++k) kept[k] = dropout.keeps_tie(uint32_t(word[k])) ? 1 : 0;
  for (int k = 0; k < kTiesAtOnce; ++k) flags[at[k]] = kept[k];
}

// flags[i]: whether the first draw drawn[i], or the second one where that is a tie, keeps its element. count:
// a multiple of kDrawsAtOnce. number(i): the number of the element that drawn[i] belongs to. flags may be
// drawn.
template <class Number>
inline void decide(const math::Dropout& dropout, const uint8_t* drawn, int64_t count, const Number& number,
                   uint8_t* flags) {
  const uint8_t bound = dropout.first_byte();
  if (!dropout.has_ties()) return compare_bytes(drawn, bound, flags, count);
  constexpr int64_t kPart = 2048;
  for (int64_t begin = 0; begin < count; begin += kPart) {
    const int64_t n = begin + kPart < count ? kPart : count - begin;
    int32_t at[kPart + kTiesAtOnce];
    const int ties = compare_draws(drawn + begin, bound, flags + begin, n, at);
    // Fills the last batch up with the last tie, whose result is the same each time.
    for (int32_t *k = at + ties, *end = k + kTiesAtOnce; k < end && ties > 0; ++k) *k = at[ties - 1];
    for (int t = 0; t < ties; t += kTiesAtOnce) {
      alignas(64) uint64_t element[kTiesAtOnce];
      for (int k = 0; k < kTiesAtOnce; ++k) element[k] = number(begin + at[t + k]);
      decide_ties(dropout, element, at + t, flags + begin);
    }
  }
}

template <class T>
ONEPASS_WALK void drop_strip(const T* from, const uint8_t* __restrict kept, T scale, T* to, int64_t n) {
  constexpr int64_t kBlock = 64;
  const auto drop = [&](int64_t begin, int64_t end) ONEPASS_INLINED {
    ONEPASS_INDEPENDENT
    for (int64_t i = begin; i < end; ++i) to[i] = math::drop(from[i], kept[i] != 0, scale);
  };
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    // A masked load waits for its mask (fetch_chosen in channels/reduce.h explains it).
    fetch_ahead(from + i, kBlock * int64_t(sizeof(T)));
    drop(i, i + kBlock);
  }
  drop(i, n);
}

struct Nothing {
  ONEPASS_HD void operator()(int64_t) const {}
};

// kept[0 .. n): the flags of the elements from `first` on in logical order. beside(i), i = 0, 1, ...: see
// draw_blocks_from; with p = 1 nothing is drawn and it is not called.
template <class Beside = Nothing>
inline void draw_kept(const math::Dropout& dropout, int64_t first, int64_t n, uint8_t* kept,
                      const Beside& beside = {}) {
  if (dropout.drops_all()) {
    std::memset(kept, 0, size_t(n));
    return;
  }
  constexpr int64_t kPart = 2048 + kDrawsAtOnce;
  static_assert(kPart % kDrawsAtOnce == 0, "whole batches");
  alignas(64) uint8_t drawn[kPart];
  for (int64_t i = 0; i < n;) {
    const int64_t skip = (first + i) % kEach, begin = first + i - skip;
    const int64_t here = kPart - skip < n - i ? kPart - skip : n - i;
    const int64_t count = (skip + here + kDrawsAtOnce - 1) / kDrawsAtOnce * kDrawsAtOnce;
    draw_blocks_from(uint64_t(begin / kEach), math::kFirstDraw[0], math::kFirstDraw[1], dropout.seed,
                     count / kDrawsAtOnce, beside, reinterpret_cast<uint32_t*>(drawn));
    const bool fits = here == count;
    uint8_t* flags = fits ? kept + i : drawn;
    decide(dropout, drawn, count, [&](int64_t at) { return uint64_t(begin + at); }, flags);
    if (!fits) std::memcpy(kept + i, drawn + skip, size_t(here));
    i += here;
  }
}

// Draws for a run of positions of several channels, which lie apart in logical order: blocks are collected
// from all channels until they are worth drawing. kept[k * width + i] is position k of channel i. width: 1
// for short rows, which lie apart themselves.
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
    alignas(64) uint8_t drawn[kDrawsAtOnce];
    for (int b = count_; b < kBlocksAtOnce; ++b) block_[b] = 0;
    if (dropout_.drops_all()) {
      std::memset(drawn, 0, kDrawsAtOnce);
    } else if (count_ > 0) {
      draw_first(dropout_, block_, reinterpret_cast<uint32_t*>(drawn));
      const auto number = [this](int64_t at) { return block_[at / kEach] * kEach + uint64_t(at % kEach); };
      decide(dropout_, drawn, kDrawsAtOnce, number, drawn);
    }
    for (int b = 0; b < count_; ++b) {
      const Target& target = target_[b];
      if (width_ == 1) {
        std::memcpy(target.to + target.begin, drawn + b * kEach + target.begin,
                    size_t(target.end - target.begin));
        continue;
      }
      for (int k = target.begin; k < target.end; ++k) {
        target.to[k * width_] = drawn[b * kEach + k];
      }
    }
    count_ = 0;
  }

 private:
  struct Target {
    uint8_t* to;  // where the block's first draw belongs, which may lie before the run
    int begin, end;
  };
  const math::Dropout& dropout_;
  int64_t width_;
  int count_ = 0;
  uint64_t block_[kBlocksAtOnce];
  Target target_[kBlocksAtOnce];
};

}  // namespace onepass::ONEPASS_ISA
