// spread_bytes.h - values of bytes, v = byte / 255, and (v - mean) / std of them, from v times a power of two
// that is rounded once ("spread"). Wide code makes such values of bytes without a division.
//
// SpreadLine and SpreadProduct have the bits of the divisions for some mean and std only: whoever takes them
// tries all 256 bytes first. kFuses: whether a fused multiply-add is one instruction.
#pragma once

#include <cstdint>

#include "core/fused.h"
#include "math/color.h"

namespace onepass::math {

ONEPASS_HD float spread_byte(uint8_t byte, float spread) { return of_byte(float(byte)) * spread; }

template <bool kFuses>
struct SpreadLine {
  template <class T>
  ONEPASS_HD T operator()(T spread, T slope, T base, T) const {
    return kFuses ? fused(spread, slope, base) : spread * slope + base;
  }
};
// The same for bfloat16, where a half may be rounded up.
template <bool kFuses>
struct SpreadHalves : SpreadLine<kFuses> {};

// By 1 / std in two parts.
template <bool kFuses>
struct SpreadProduct {
  template <class T>
  ONEPASS_HD T operator()(T spread, T mean, T high, T low) const {
    const T from_mean = spread - mean;
    return kFuses ? fused(from_mean, high, from_mean * low) : from_mean * high + from_mean * low;
  }
};

struct SpreadDivided {
  float back;  // 1 / the power of two
  template <class T>
  ONEPASS_HD T operator()(T spread, T mean, T std, T) const {
    return (spread * T(back) - mean) / std;
  }
};

}  // namespace onepass::math
