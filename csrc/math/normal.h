// normal.h - standard normal numbers from random words, by Box and Muller:
//   u = (word 0 + 1) / 2^32, w = word 1 / 2^32:   sqrt(-2 log u) cos(2 pi w), sqrt(-2 log u) sin(2 pi w)
//
// In double and rounded to float: the same bits everywhere, and those of the exact value but where that lies
// in the middle of two floats. -log u is log(1 + (1 - u) / u) (log1p.h). A turn's quarter is cut off the
// angle; the rest, an eighth of a turn at most, goes into Taylor's series, whose first missing terms are
// below 1e-16.
//
// Source: Box and Muller 1958, "A note on the generation of random normal deviates".
#pragma once

#include <cmath>
#include <cstdint>

#include "math/log1p.h"

namespace onepass::math {

struct NormalPair {
  float first, second;
};

ONEPASS_HD double sine_series(double a) {
  const double z = a * a;
  const double high = -1 / 39916800. + z * (1 / 6227020800. + z * (-1 / 1307674368000.));
  return a + a * z * (-1 / 6. + z * (1 / 120. + z * (-1 / 5040. + z * (1 / 362880. + z * high))));
}

ONEPASS_HD double cosine_series(double a) {
  const double z = a * a;
  const double high = 1 / 479001600. + z * (-1 / 87178291200. + z * (1 / 20922789888000.));
  return 1 +
         z * (-1 / 2. + z * (1 / 24. + z * (-1 / 720. + z * (1 / 40320. + z * (-1 / 3628800. + z * high)))));
}

ONEPASS_HD NormalPair normal_pair(uint32_t word0, uint32_t word1) {
  const double u = (double(word0) + 1) * 0x1p-32;
  const double radius = sqrt(2 * log_of_one_plus((1 - u) / u));
  const double quarters = double(word1) * 0x1p-30;
  const int32_t quarter = int32_t(quarters + 0.5);
  const double angle = (quarters - double(quarter)) * 1.5707963267948966;
  const double sine = sine_series(angle), cosine = cosine_series(angle);
  const bool odd = (quarter & 1) != 0;
  const double x = odd ? sine : cosine, y = odd ? cosine : sine;
  const bool left = quarter == 1 || quarter == 2, down = quarter == 2 || quarter == 3;
  return {float(radius * (left ? -x : x)), float(radius * (down ? -y : y))};
}

}  // namespace onepass::math
