// bits.h - the bits of a float or double and back, on host and device.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/compiler.h"

namespace onepass {

ONEPASS_HD float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

ONEPASS_HD uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

ONEPASS_HD double float_of(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

ONEPASS_HD uint64_t bits_of(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Gives a nan an empty low half: pairs of bfloat16 (convert.h) are rounded right with no other nan. A GPU's,
// all ones, would become -0.
template <class T>
ONEPASS_HD T plain_nan(T x) {
  return x == x ? x : T(NAN);
}

// Whether x is neither infinite nor a nan: x - x is 0 for finite numbers only. As arithmetic it vectorises.
template <class T>
ONEPASS_HD bool is_finite(T x) {
  return x - x == 0;
}

ONEPASS_HD uint32_t rotate_right(uint32_t x, int by) { return x >> (by % 32) | x << ((32 - by) % 32); }

}  // namespace onepass
