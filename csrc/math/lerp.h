// lerp.h - linear interpolation from a to b by w, as torch.lerp: exact at w = 0 and at w = 1.
//
//   w < 1/2:   a + w (b - a)          otherwise:   b - (1 - w) (b - a)
//
// Source: torch.lerp (ATen/native/Lerp.h) uses the same two forms.
#pragma once

#include "core/compiler.h"

namespace onepass::math {

// w_rest is 1 - w: passed in because the caller knows it without a rounding.
template <class T>
ONEPASS_HD T lerp(T a, T b, T w, T w_rest) {
  const T difference = b - a;
  return w < T(0.5) ? a + w * difference : b - w_rest * difference;
}

}  // namespace onepass::math
