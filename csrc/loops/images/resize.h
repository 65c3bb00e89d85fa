// resize.h - separable resize, on the CPU: a row of the output from the rows of its taps first, which leaves
// one row of floats, and then along that row.
#pragma once

#include <cstdint>
#include <type_traits>

#include "loops/images/pixels.h"
#include "math/image_resize.h"

namespace onepass::ONEPASS_ISA {

// The taps of each output pixel along one axis: count[i] from first[i] on, weights from weight + i * most on.
struct TapTable {
  int32_t* first;
  int32_t* count;
  float* weight;
  int64_t most;

  static int64_t bytes(int64_t n, int64_t most) { return n * (8 + most * int64_t(sizeof(float))); }
};

inline void fill_antialiased(const math::ResizeAxis& axis, double centre, int32_t first, int32_t end,
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
inline void fill_clamped(const math::ResizeAxis& axis, double centre, int32_t first, int32_t end,
                         float* weight) {
  double sums[4] = {};
  const int32_t base = axis.within(first);
  for (int32_t tap = first; tap < end; ++tap) sums[axis.within(tap) - base] += axis.weight(centre, tap);
  for (int32_t k = 0; k <= axis.within(end - 1) - base; ++k) weight[k] = float(sums[k]);
}

inline void fill_table(const math::ResizeAxis& axis, int64_t n, const TapTable& table) {
  for (int64_t i = 0; i < n; ++i) {
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
    for (int64_t k = high - low; k < table.most; ++k) weight[k] = 0;
  }
}

// Taps of the pixel that has most.
inline int64_t most_taps_of(const TapTable& table, int64_t n) {
  int64_t most = 0;
  for (int64_t i = 0; i < n; ++i) most = table.count[i] > most ? table.count[i] : most;
  return most;
}

// to[i] = weight * from[i * stride], or to[i] plus that.
template <bool kAdds, class E, class Stride>
ONEPASS_WALK void weigh_row(float weight, const E* from, Stride stride, float* to, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    const float term = math::weighted(weight, widen(from[i * stride]));
    to[i] = kAdds ? to[i] + term : term;
  }
}

template <bool kAdds, class E>
inline void weigh(float weight, const E* from, int64_t stride, float* to, int64_t n) {
  // A stride that the compiler knows makes a vector loop of it.
  if (stride == 1) return weigh_row<kAdds>(weight, from, std::integral_constant<int64_t, 1>{}, to, n);
  weigh_row<kAdds>(weight, from, stride, to, n);
}

// The pixels left .. right of the box, each channel a plane of `rows`: output row y of a resize along
// columns.
inline void resize_down(const ImageView& image, const TapTable& table, int64_t y, int64_t left, int64_t right,
                        const Planes& rows) {
  const float* weight = table.weight + y * table.most;
  with_pixels(image.type, [&](auto element) ONEPASS_INLINED {
    using E = decltype(element);
    for (int64_t c = 0; c < image.channels; ++c) {
      for (int32_t k = 0; k < table.count[y]; ++k) {
        const E* from = static_cast<const E*>(image.data) + (table.first[y] + k) * image.row +
                        left * image.column + c * image.channel;
        if (k == 0) {
          weigh<false>(weight[k], from, image.column, rows[c], right - left);
        } else {
          weigh<true>(weight[k], from, image.column, rows[c], right - left);
        }
      }
    }
  });
}

// n pixels of the output from column x on; rows begin at column `left` of the input.
ONEPASS_WALK inline void resize_along(const float* row, const TapTable& table, int64_t left, int64_t x,
                                      int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) {
    const float* weight = table.weight + (x + i) * table.most;
    const float* from = row + table.first[x + i] - left;
    float sum = math::weighted(weight[0], from[0]);
    for (int32_t k = 1; k < table.count[x + i]; ++k) sum += math::weighted(weight[k], from[k]);
    to[i] = sum;
  }
}

}  // namespace onepass::ONEPASS_ISA
