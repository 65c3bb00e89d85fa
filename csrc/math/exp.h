// exp.h - e^x for the softmax, as a host + device formula that compilers turn into wide code.
//
//   x = n ln 2 + r, |r| <= ln 2 / 2:   e^x = 2^n (1 + r (1 + r q(r)))
//
// For x up to 40, of which a softmax needs 1 at most. What is too small for the type becomes 0, a nan stays a
// nan, results below the smallest normal number are rounded once more. The largest error is below 1 ulp in
// float (of all floats up to 40) and in double (of drawn ones); tests/test_exp.py holds both. No table, no
// division, and core/fused.h: the same bits from every instruction set and on the GPU.
//
// The n nearest to x / ln 2 appears in the low bits of x / ln 2 + 3 * 2^(bits of the mantissa - 1). n ln 2 is
// subtracted in two parts, the first of which has so few bits that its product with n is exact. q is the
// polynomial with the smallest largest error relative to e^r (Remez), 2^-28.3 and 2^-57.9.
//
// A choice at the end and no clamp at the beginning: GCC 12 would follow each constant of a clamp through the
// formula by masks, twice the instructions.
//
// Source: Cody and Waite 1980, "Software manual for the elementary functions" (reduction in two parts); the
// coefficients are onepass's own, by the Remez algorithm.
#pragma once

#include "core/fused.h"

namespace onepass::math {

ONEPASS_HD float exp_polynomial(float r) {
  const float high = fused(r, fused(r, 0x1.6a23c8p-10f, 0x1.123a2p-7f), 0x1.5558f2p-5f);
  return fused(r, fused(r, high, 0x1.555492p-3f), 0x1.fffffcp-2f);
}

ONEPASS_HD double exp_polynomial(double r) {
  const double last = fused(r, fused(r, 0x1.ad7f6c74e4e49p-26, 0x1.28ad9b6090f22p-22), 0x1.71df259679ec7p-19);
  const double high = fused(r, fused(r, last, 0x1.a01999e28f45bp-16), 0x1.a01a012a1bd56p-13);
  const double low = fused(r, fused(r, high, 0x1.6c16c184389fbp-10), 0x1.1111111127ceap-7);
  return fused(r, fused(r, fused(r, low, 0x1.555555555083fp-5), 0x1.55555555554f9p-3), 0x1.000000000000ap-1);
}

// ln 2 and its inverse as the formula needs them, and the exponents of a type.
template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kShift = 0x1.8p23f, kInverse = 0x1.715476p+0f, kHigh = 0x1.62e4p-1f,
                         kLow = 0x1.7f7d1cp-20f;
  static constexpr int kMantissa = 23, kBias = 127;
  // 2^kMore e^x is not subnormal where e^x is not 0; kTiny kLess is the smallest normal number.
  static constexpr int kMore = 64;
  static constexpr float kLess = 0x1p-64f, kTiny = 0x1p-62f;
};

template <>
struct ExpConstants<double> {
  static constexpr double kShift = 0x1.8p52, kInverse = 0x1.71547652b82fep+0, kHigh = 0x1.62e42fefap-1,
                          kLow = 0x1.cf79abc9e3b3ap-40;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr int kMore = 128;
  static constexpr double kLess = 0x1p-128, kTiny = 0x1p-894;
};

// 2^more e^x. A product with it is rounded once, also where e^x alone is below the smallest normal number;
// nothing is computed that a sum or a product with 2^-more does not need.
template <class T>
struct ScaledExp {
  using Constants = ExpConstants<T>;
  T shift;  // leaves n, in whose bits the exponent of 2^(n + more) stands
  T least;  // below it that would leave the range: 0

  ONEPASS_HD static ScaledExp with(int more) {
    return {Constants::kShift + T(Constants::kBias + more),
            -T(Constants::kBias - 1 + more) * (Constants::kHigh + Constants::kLow)};
  }
  ONEPASS_HD static ScaledExp usual() { return with(Constants::kMore); }

  ONEPASS_HD T operator()(T x) const {
    const T shifted = fused(x, Constants::kInverse, shift), n = shifted - shift;
    const T r = fused(n, -Constants::kLow, fused(n, -Constants::kHigh, x));
    const T y = fused(r, fused(r, exp_polynomial(r), T(1)), T(1));
    return x < least ? T(0) : y * float_of(bits_of(shifted) << Constants::kMantissa);
  }
};

template <class T>
ONEPASS_HD T exponential(T x) {
  return ScaledExp<T>::usual()(x) * ExpConstants<T>::kLess;
}

}  // namespace onepass::math
