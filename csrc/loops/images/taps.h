// taps.h - the taps of the output pixels of a resize along one axis, and their weights.
#pragma once

#include <cstdint>

#include "math/image_resize.h"

namespace onepass {

// The taps of each output pixel: count[i] from first[i] on, weights from weight + i * most on.
struct TapTable {
  int32_t* first;
  int32_t* count;
  float* weight;
  int64_t most;

  ONEPASS_HD static int64_t bytes(int64_t n, int64_t most) { return n * (8 + most * int64_t(sizeof(float))); }
  // The table of n pixels that begins at an address.
  ONEPASS_HD static TapTable at(char* memory, int64_t n, int64_t most) {
    int32_t* numbers = reinterpret_cast<int32_t*>(memory);
    return {numbers, numbers + n, reinterpret_cast<float*>(numbers + 2 * n), most};
  }
};

ONEPASS_HD void fill_antialiased(const math::ResizeAxis& axis, double centre, int32_t first, int32_t end,
                                 float* weight) {
  // Weights are made once where they are few.
  constexpr int32_t kMost = 16;
  double kept[kMost];
  const bool few = end - first <= kMost;
  double sum = 0;
  for (int32_t tap = first; tap < end; ++tap) {
    const double each = axis.weight(centre, tap);
    if (few) kept[tap - first] = each;
    sum += each;
  }
  for (int32_t tap = first; tap < end; ++tap) {
    weight[tap - first] = math::normalised_weight(few ? kept[tap - first] : axis.weight(centre, tap), sum);
  }
}

// Taps outside the box are those of its edge.
ONEPASS_HD void fill_clamped(const math::ResizeAxis& axis, double centre, int32_t first, int32_t end,
                             float* weight) {
  double sums[4] = {};
  const int32_t base = axis.within(first);
  for (int32_t tap = first; tap < end; ++tap) sums[axis.within(tap) - base] += axis.weight(centre, tap);
  for (int32_t k = 0; k <= axis.within(end - 1) - base; ++k) weight[k] = float(sums[k]);
}

// Pixel i of the table.
ONEPASS_HD void fill_taps(const math::ResizeAxis& axis, int64_t i, const TapTable& table) {
  const double centre = axis.centre(double(i));
  const int32_t first = axis.first(centre), end = axis.end(centre);
  const int32_t low = axis.within(first), high = axis.within(end - 1) + 1;
  float* weight = table.weight + i * table.most;
  if (axis.antialias) {
    fill_antialiased(axis, centre, low, high, weight);
  } else {
    fill_clamped(axis, centre, first, end, weight);
  }
  table.first[i] = low;
  table.count[i] = high - low;
}

}  // namespace onepass
