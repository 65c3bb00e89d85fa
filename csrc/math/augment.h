// augment.h - how the pixels of two samples are mixed, and which a box holds. The other formulas of augment:
// image_map.h, image_resize.h, color.h, normal.h.
//
// Source: Zhang et al. 2018, "mixup: beyond empirical risk minimization"; Yun et al. 2019, "CutMix".
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass::math {

// lam own + (1 - lam) other.
struct Mixup {
  float lam, rest;
  ONEPASS_HD static Mixup make(double lam) { return {float(lam), float(1 - lam)}; }
  template <class T>
  ONEPASS_HD T operator()(T own, T other) const {
    return T(lam) * own + T(rest) * other;
  }
};

// Pixels from left to right and from top to bottom, the last ones excluded.
struct Box {
  int64_t left, top, right, bottom;
  ONEPASS_HD bool holds(int64_t x, int64_t y) const {
    return x >= left && x < right && y >= top && y < bottom;
  }
};

}  // namespace onepass::math
