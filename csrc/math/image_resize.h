// image_resize.h - the weights of a separable resize along one axis.
//
//   centre of output pixel i:  c = scale i + offset, in pixel indices of the input
//   antialias:  taps floor(c + 1 - s) .. floor(c + 1 + s) - 1 within the box, s = size max(1, |scale|),
//               weights f((j - c) / max(1, |scale|)), divided by their sum
//   without:    taps floor(c) + 1 - size .. floor(c) + size, clamped to the box, weights f(j - c)
//   f: triangle (size 1), or Keys' cubic (size 2) with a = -0.5 with antialias and -0.75 without
//
// Made in double and rounded to float once.
//
// Source: torch, _upsample_bilinear2d_aa, _upsample_bicubic2d_aa, upsample_bicubic2d; Keys 1981, "Cubic
// convolution interpolation for digital image processing".
#pragma once

#include <cmath>

#include "math/image_map.h"

namespace onepass::math {

struct ResizeAxis {
  double scale, offset;
  Axis axis;
  bool cubic, antialias;

  ONEPASS_HD double size() const { return cubic ? 2 : 1; }
  ONEPASS_HD double stretch() const {
    const double reduction = fabs(scale);
    return antialias && reduction > 1 ? reduction : 1;
  }
  // Taps of a pixel at most.
  ONEPASS_HD int32_t most_taps() const { return int32_t(2 * size() * stretch()) + 2; }
  ONEPASS_HD double centre(double i) const { return scale * i + offset; }

  // Taps of a pixel, before those that are not in the box are cut off or clamped: [first, end).
  ONEPASS_HD int32_t first(double c) const {
    const double tap = antialias ? floor(c + 1 - size() * stretch()) : floor(c) + 1 - size();
    return int32_t(clamped(tap, -kFar, kFar));
  }
  ONEPASS_HD int32_t end(double c) const {
    const double tap = antialias ? floor(c + 1 + size() * stretch()) : floor(c) + 1 + size();
    return int32_t(clamped(tap, -kFar, kFar));
  }
  ONEPASS_HD int32_t within(int32_t tap) const { return int32_t(clamped(tap, axis.least, axis.most)); }

  ONEPASS_HD static double triangle(double x) { return x < 1 ? 1 - x : 0; }
  ONEPASS_HD static double keys(double x, double a) {
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
  }
  ONEPASS_HD double weight(double c, int32_t tap) const {
    const double x = fabs((double(tap) - c) / stretch());
    return cubic ? keys(x, antialias ? -0.5 : -0.75) : triangle(x);
  }
};

// A weight of its pixel's sum of weights. A pixel so far outside the box that no tap has a weight is the one
// tap that is left of it.
ONEPASS_HD float normalised_weight(double weight, double sum) {
  return sum != 0 ? float(weight / sum) : 1.0f;
}

// The next term of a sum over taps.
template <class T>
ONEPASS_HD T weighted(T weight, T v) {
  return weight * v;
}

}  // namespace onepass::math
