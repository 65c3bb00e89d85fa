// philox.h - Philox4x32-10: random words as a function of a key and a counter, and of nothing else.
//
// The one source of randomness (docs/decisions.md). The counter is the position of an element in its tensor,
// so that a draw does not depend on threads, devices or order, and can be repeated. Source: Salmon et al.
// 2011, "Parallel random numbers: as easy as 1, 2, 3"; the constants are Random123's.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass {

struct PhiloxCounter {
  uint32_t word[4];
};

// 128 random bits.
struct PhiloxWords {
  uint32_t word[4];
};

constexpr int kPhiloxRounds = 10;

// The 64-bit product of a's low half and a constant; all words set to one value. Vectors have overloads of
// both in loops/draws/philox_blocks.h.
ONEPASS_HD uint64_t low_product(uint64_t a, uint32_t constant) { return uint64_t(uint32_t(a)) * constant; }
ONEPASS_HD void set_words(uint64_t& words, uint32_t word) { words = word; }

// The rounds, for kCount counters whose words are c[0] .. c[3]: 64-bit words, or vectors of them, whose high
// halves are rubbish before and after. Wide code then multiplies without moving halves between lanes.
template <int kCount, class Word>
ONEPASS_HD void philox_rounds(Word (&c)[4][kCount], uint64_t key) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  Word k0, k1;
  set_words(k0, uint32_t(key));
  set_words(k1, uint32_t(key >> 32));
  ONEPASS_UNROLLED
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int i = 0; i < kCount; ++i) {
      const Word product0 = low_product(c[0][i], kMultiplier0);
      const Word product1 = low_product(c[2][i], kMultiplier1);
      c[0][i] = (product1 >> 32) ^ c[1][i] ^ k0;
      c[1][i] = product1;
      c[2][i] = (product0 >> 32) ^ c[3][i] ^ k1;
      c[3][i] = product0;
    }
    k0 = k0 + kWeyl0;
    k1 = k1 + kWeyl1;
  }
}

ONEPASS_HD PhiloxWords philox(PhiloxCounter counter, uint64_t key) {
  uint64_t c[4][1] = {{counter.word[0]}, {counter.word[1]}, {counter.word[2]}, {counter.word[3]}};
  philox_rounds(c, key);
  return {{uint32_t(c[0][0]), uint32_t(c[1][0]), uint32_t(c[2][0]), uint32_t(c[3][0])}};
}

}  // namespace onepass
