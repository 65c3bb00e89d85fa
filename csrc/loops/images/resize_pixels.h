// resize_pixels.h - separable resize of images whose channels follow each other, on the CPU: the channels of
// a pixel go through it side by side. The same sums in the same order as resize.h, so the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "loops/images/resize.h"
#include "loops/images/wide.h"

namespace onepass::ONEPASS_ISA {

// Rows that are added at a time.
constexpr int kRowsAtOnce = 4;

// to[i] = sum of weight[k] from[k][i], added to what is there if kAdds.
template <bool kAdds, int kRows, class E>
ONEPASS_WALK void add_rows_of(const float* weight, const E* const* from, float* __restrict to, int64_t n) {
  int64_t i = 0;
#if ONEPASS_FUSES && defined(__AVX2__)
  if constexpr (sizeof(E) == 1) {
    for (; i + kWide <= n; i += kWide) {
      Wide sum = math::weighted(Wide(weight[0]), Wide::of_bytes(from[0] + i));
      if (kAdds) sum = Wide::load(to + i) + sum;
      for (int k = 1; k < kRows; ++k)
        sum = sum + math::weighted(Wide(weight[k]), Wide::of_bytes(from[k] + i));
      sum.store(to + i, false);
    }
  }
#endif
  for (; i < n; ++i) {
    float sum = math::weighted(weight[0], widen(from[0][i]));
    if (kAdds) sum = to[i] + sum;
    for (int k = 1; k < kRows; ++k) sum += math::weighted(weight[k], widen(from[k][i]));
    to[i] = sum;
  }
}

template <bool kAdds, class E>
inline void add_rows(int rows, const float* weight, const E* const* from, float* to, int64_t n) {
  if (rows == 1) return add_rows_of<kAdds, 1>(weight, from, to, n);
  if (rows == 2) return add_rows_of<kAdds, 2>(weight, from, to, n);
  if (rows == 3) return add_rows_of<kAdds, 3>(weight, from, to, n);
  add_rows_of<kAdds, kRowsAtOnce>(weight, from, to, n);
}

// Output row y of a resize along columns: the elements of columns left .. right, channels side by side.
inline void resize_pixels_down(const ImageView& image, const TapTable& table, int64_t y, int64_t left,
                               int64_t right, float* row) {
  with_pixels(image.type, [&](auto element) ONEPASS_INLINED {
    using E = decltype(element);
    const float* weight = table.weight + y * table.most;
    const E* first = static_cast<const E*>(image.data) + table.first[y] * image.row + left * image.column;
    for (int32_t k = 0; k < table.count[y]; k += kRowsAtOnce) {
      const int32_t rows = table.count[y] - k < kRowsAtOnce ? table.count[y] - k : kRowsAtOnce;
      const E* from[kRowsAtOnce];
      for (int32_t r = 0; r < rows; ++r) from[r] = first + (k + r) * image.row;
      const int64_t n = (right - left) * image.channels;
      if (k == 0) {
        add_rows<false>(rows, weight, from, row, n);
      } else {
        add_rows<true>(rows, weight + k, from, row, n);
      }
    }
  });
}

// The channels of a pixel, and where there are three the next one's first.
typedef float Channels __attribute__((vector_size(16)));

ONEPASS_HD Channels load_channels(const float* from) {
  Channels value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

ONEPASS_HD Channels each(float value) { return Channels{value, value, value, value}; }

// Pixels to planes, each value through a formula.
template <int kChannels, class F>
ONEPASS_WALK void part_planes(const F formula, const float* __restrict from, const Planes to, int64_t n) {
  for (int c = 0; c < kChannels; ++c) {
    float* __restrict plane = to[c];
    for (int64_t i = 0; i < n; ++i) plane[i] = formula(from[i * kChannels + c]);
  }
}

}  // namespace onepass::ONEPASS_ISA
