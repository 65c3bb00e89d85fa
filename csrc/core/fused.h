// fused.h - a * b + c rounded once, the same bits everywhere.
//
// One instruction on a GPU, on ARM, and on x86 since 2013. Elsewhere a float's product is exact in double,
// and what adding c loses sets the sum's last bit where that is not set (rounding to odd), after which
// rounding to float is right: Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums: proved
// algorithms using rounding to odd". Plain code, so that wide code comes of it; doubles ask the C library.
#pragma once

#include <cmath>

#include "core/bits.h"

namespace onepass {

#if defined(__CUDA_ARCH__) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
// Whether it is one instruction. A formula that has another way to the same bits takes it where it is not.
#define ONEPASS_FUSES 1
ONEPASS_HD float fused(float a, float b, float c) { return fmaf(a, b, c); }
#else
#define ONEPASS_FUSES 0
ONEPASS_HD float fused(float a, float b, float c) {
  const double product = double(a) * double(b), sum = product + double(c), back = sum - product;
  const double lost = (product - (sum - back)) + (double(c) - back);
  const uint64_t even = ~bits_of(sum) & 1u, inwards = (bits_of(sum) ^ bits_of(lost)) >> 63;
  const uint64_t step = even - (even & inwards) * 2;
  const double inexact = lost > 0 || lost < 0 ? float_of(step) : 0.0;
  return float(float_of(bits_of(sum) + bits_of(inexact)));
}
#endif

ONEPASS_HD double fused(double a, double b, double c) { return fma(a, b, c); }

}  // namespace onepass
