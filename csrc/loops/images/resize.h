// resize.h - separable resize, on the CPU: a row of the output from the rows of its taps first, which leaves
// one row of floats, and then along that row.
#pragma once

#include <cstdint>
#include <type_traits>

#include "loops/images/pixels.h"
#include "loops/images/taps.h"

namespace onepass::ONEPASS_ISA {

inline void fill_table(const math::ResizeAxis& axis, int64_t n, const TapTable& table) {
  for (int64_t i = 0; i < n; ++i) {
    fill_taps(axis, i, table);
    for (int64_t k = table.count[i]; k < table.most; ++k) table.weight[i * table.most + k] = 0;
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
