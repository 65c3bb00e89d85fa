// exp.h - e^x of our own for the softmax, as a host + device formula that compilers turn into wide code.
//
//   x = n ln 2 + r, |r| <= ln 2 / 2:   e^x = 2^n (1 + r + r^2 q(r))
//
// For x up to 40, of which a softmax needs 1 at most. What is too small for the type becomes 0, a nan stays a
// nan, results below the smallest normal number are rounded once more. The largest error is below 1 ulp in
// float (of all floats up to 40) and 1.1 in double (of drawn ones); tests/test_exp.py holds both. No table,
// no division, no fused operation: the same bits from every instruction set and on the GPU.
//
// The n nearest to x / ln 2 appears in the low bits of x / ln 2 + 3 * 2^(bits of the mantissa - 1). n ln 2 is
// subtracted in two parts, the first of which has so few bits that its product with n is exact. q is the
// polynomial with the smallest largest error relative to e^r (Remez), 2^-28.3 and 2^-57.9. 2^n is multiplied
// in two steps, so that the first never leaves the range of normal numbers and is exact.
//
// A choice at the end and no clamp at the beginning: GCC 12 would follow each constant of a clamp through the
// formula by masks, twice the instructions.
#pragma once

#include "core/bits.h"

namespace onepass::math {

ONEPASS_HD float exp_polynomial(float r) {
  return 0x1.fffffcp-2f +
         r * (0x1.555492p-3f + r * (0x1.5558f2p-5f + r * (0x1.123a2p-7f + r * 0x1.6a23c8p-10f)));
}

ONEPASS_HD double exp_polynomial(double r) {
  const double high =
      0x1.a01a012a1bd56p-13 +
      r * (0x1.a01999e28f45bp-16 +
           r * (0x1.71df259679ec7p-19 + r * (0x1.28ad9b6090f22p-22 + r * 0x1.ad7f6c74e4e49p-26)));
  return 0x1.000000000000ap-1 +
         r * (0x1.55555555554f9p-3 +
              r * (0x1.555555555083fp-5 +
                   r * (0x1.1111111127ceap-7 + r * (0x1.6c16c184389fbp-10 + r * high))));
}

ONEPASS_HD float exponential(float x) {
  constexpr float kShift = 0x1.8p23f, kHigh = 0x1.62e4p-1f, kLow = 0x1.7f7d1cp-20f;
  const float shifted = x * 0x1.715476p+0f + kShift, n = shifted - kShift;
  const float r = (x - n * kHigh) - n * kLow;
  const float y = 1.0f + (r + r * r * exp_polynomial(r));
  const float power = float_of((bits_of(shifted) + (127u + 64u)) << 23);
  return x < -104.0f ? 0.0f : y * power * 0x1p-64f;
}

ONEPASS_HD double exponential(double x) {
  constexpr double kShift = 0x1.8p52, kHigh = 0x1.62e42fefap-1, kLow = 0x1.cf79abc9e3b3ap-40;
  const double shifted = x * 0x1.71547652b82fep+0 + kShift, n = shifted - kShift;
  const double r = (x - n * kHigh) - n * kLow;
  const double y = 1.0 + (r + r * r * exp_polynomial(r));
  const double power = float_of((bits_of(shifted) + (1023u + 128u)) << 52);
  return x < -746.0 ? 0.0 : y * power * 0x1p-128;
}

}  // namespace onepass::math
