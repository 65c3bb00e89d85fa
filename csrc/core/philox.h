// philox.h - Philox4x32-10: random words as a function of a key and a counter, and of nothing else.
//
// The one source of randomness (docs/decisions.md). Whoever draws counts by the position of an element in its
// tensor, so that a draw does not depend on threads, devices, or who draws first, and can be repeated.
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; the constants are Random123's.
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

ONEPASS_HD PhiloxWords philox(PhiloxCounter counter, uint64_t key) {
  // 64-bit words whose high halves are rubbish until the end: wide code then multiplies without moving
  // halves between lanes.
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  uint64_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = kMultiplier0 * uint32_t(c0);
    const uint64_t product1 = kMultiplier1 * uint32_t(c2);
    c0 = (product1 >> 32) ^ c1 ^ k0;
    c1 = product1;
    c2 = (product0 >> 32) ^ c3 ^ k1;
    c3 = product0;
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return {{uint32_t(c0), uint32_t(c1), uint32_t(c2), uint32_t(c3)}};
}

}  // namespace onepass
