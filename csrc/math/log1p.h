// log1p.h - log(1 + u) for u >= 0, as a host + device formula that compilers turn into wide code, like exp.h.
//
//   w = 1 + u rounded, what was lost c = u - (w - 1):   log(1 + u) = log w + c / w
//   w = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2),  s = f / (2 + f),  z = s^2
//   log(1 + f) = 2 (s + s^3 / 3 + s^5 / 5 + ...) = f - s (f - z (2/3 + z 2/5 + z^2 2/7 + ...))
//
// The last form adds to f, which is exact, a correction of a sixth of it at most. A nan stays a nan.
//
// Source: fdlibm, s_log1p.c (the lost part, s, ln 2 in two parts); the coefficients here are those of the
// series.
#pragma once

#include "core/bits.h"

namespace onepass::math {

ONEPASS_HD float log_polynomial(float z) { return 2 / 3.f + z * (2 / 5.f + z * (2 / 7.f + z * (2 / 9.f))); }

ONEPASS_HD double log_polynomial(double z) {
  const double high = 2 / 13. + z * (2 / 15. + z * (2 / 17. + z * (2 / 19. + z * (2 / 21.))));
  return 2 / 3. + z * (2 / 5. + z * (2 / 7. + z * (2 / 9. + z * (2 / 11. + z * high))));
}

// The last steps of both: lost = c / w, k ln 2 in two parts, the first product exact.
template <class T>
ONEPASS_HD T log_of_parts(T f, T k, T lost, T ln2_high, T ln2_low) {
  const T s = f / (2 + f), z = s * s;
  return k * ln2_high + (f - (s * (f - z * log_polynomial(z)) - (k * ln2_low + lost)));
}

ONEPASS_HD float log_of_one_plus(float u) {
  constexpr uint32_t kOne = 0x3f800000u, kSqrtHalf = 0x3f3504f3u, kMantissa = 0x007fffffu;
  const float w = 1 + u, lost = (u - (w - 1)) / w;
  const uint32_t bits = bits_of(w) + (kOne - kSqrtHalf);
  const float k = float(int32_t(bits >> 23) - 127);
  const float f = float_of((bits & kMantissa) + kSqrtHalf) - 1;
  return log_of_parts(f, k, lost, 0x1.62e4p-1f, 0x1.7f7d1cp-20f);
}

ONEPASS_HD double log_of_one_plus(double u) {
  constexpr uint64_t kOne = 0x3ff0000000000000u, kSqrtHalf = 0x3fe6a09e667f3bcdu,
                     kMantissa = 0x000fffffffffffffu;
  const double w = 1 + u, lost = (u - (w - 1)) / w;
  const uint64_t bits = bits_of(w) + (kOne - kSqrtHalf);
  const double k = double(int32_t(bits >> 52) - 1023);
  const double f = float_of((bits & kMantissa) + kSqrtHalf) - 1;
  return log_of_parts(f, k, lost, 0x1.62e42fefap-1, 0x1.cf79abc9e3b3ap-40);
}

}  // namespace onepass::math
