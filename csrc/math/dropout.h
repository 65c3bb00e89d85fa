// dropout.h - which elements a dropout keeps, as a function of the seed and of their place alone.
//
// Element i draws 16 bits u: of the Philox block i / 8 under the seed, the half word i % 8, low half first.
//   dropped if u < t, t = floor(65536 p)
//   at u == t 16 more bits, of the same place in the block with counter word 3 = 1, decide alike with the
//   fraction of 65536 p, so that P(dropped) is p to 2^-32.
// What is kept is multiplied by 1 / (1 - p). i counts the logical tensor in NCHW order, whatever the
// memory's.
#pragma once

#include "core/philox.h"

namespace onepass::math {

constexpr int kDrawsPerBlock = 8;

struct Dropout {
  uint64_t seed;
  uint32_t first, second;  // thresholds
  double scale;

  // 0 <= p <= 1.
  ONEPASS_HD static Dropout make(double p, uint64_t seed) {
    const double steps = p * 65536;
    const uint32_t first = uint32_t(steps);
    return {seed, first, uint32_t((steps - first) * 65536), p < 1 ? 1 / (1 - p) : 0};
  }

  // The draws of elements 8 block .. 8 block + 7.
  ONEPASS_HD PhiloxWords draws(uint64_t block) const {
    return philox({{uint32_t(block), uint32_t(block >> 32), 0, 0}}, seed);
  }
  ONEPASS_HD PhiloxWords second_draws(uint64_t block) const {
    return philox({{uint32_t(block), uint32_t(block >> 32), 0, 1}}, seed);
  }
  ONEPASS_HD static uint32_t lane(const PhiloxWords& draws, int k) {
    return k % 2 == 0 ? draws.word[k / 2] & 0xffffu : draws.word[k / 2] >> 16;
  }

  ONEPASS_HD bool keeps(uint32_t draw) const { return draw >= first; }
  ONEPASS_HD bool is_tie(uint32_t draw) const { return draw == first; }
  ONEPASS_HD bool keeps_tie(uint32_t second_draw) const { return second_draw >= second; }
  // The whole rule for one element.
  ONEPASS_HD bool keeps_element(uint64_t i) const {
    const int k = int(i % kDrawsPerBlock);
    const uint32_t draw = lane(draws(i / kDrawsPerBlock), k);
    return is_tie(draw) ? keeps_tie(lane(second_draws(i / kDrawsPerBlock), k)) : keeps(draw);
  }
};

// x where it is kept, scaled; 0 elsewhere, also for an x that is not finite.
template <class T>
ONEPASS_HD T drop(T x, bool kept, T scale) {
  return kept ? x * scale : T(0);
}

}  // namespace onepass::math
