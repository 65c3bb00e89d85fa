// resize_rows.h - a separable resize along rows, some rows at a time, on the CPU: the weights of a pixel are
// loaded once for all of them, which is what such a loop waits for. The same sums in the same order as
// resize.h, so the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "loops/images/resize_pixels.h"

namespace onepass::ONEPASS_ISA {

constexpr int kRowsTogether = 4;

// Rows that are resized together, as pixels with their channels one after the other. Up to 16 bytes behind
// the pixels are read and written.
struct RowsTogether {
  const float* from[kRowsTogether];
  float* to[kRowsTogether];
};

// kTaps as resize_channels(): 0 for as many as a pixel has. left: the column that `from` begins with.
template <int kTaps, int kChannels>
ONEPASS_WALK void resize_together(const RowsTogether rows, const TapTable table, int64_t left, int64_t n) {
  const float* weight = table.weight;
  for (int64_t i = 0; i < n; ++i, weight += table.most) {
    const int64_t begin = (table.first[i] - left) * kChannels;
    Channels sum[kRowsTogether];
    const Channels nearest = each(weight[0]);
    ONEPASS_UNROLLED
    for (int r = 0; r < kRowsTogether; ++r)
      sum[r] = math::weighted(nearest, load_channels(rows.from[r] + begin));
    const int32_t count = kTaps > 0 ? kTaps : table.count[i];
    for (int32_t k = 1; k < count; ++k) {
      const Channels next = each(weight[k]);
      ONEPASS_UNROLLED
      for (int r = 0; r < kRowsTogether; ++r)
        sum[r] += math::weighted(next, load_channels(rows.from[r] + begin + k * kChannels));
    }
    ONEPASS_UNROLLED
    for (int r = 0; r < kRowsTogether; ++r) std::memcpy(rows.to[r] + i * kChannels, &sum[r], sizeof sum[r]);
  }
}

// taps: of a pixel at most, all with finite elements, or 0.
template <int kChannels>
inline void resize_rows_along(const RowsTogether& rows, int64_t taps, const TapTable& table, int64_t left,
                              int64_t n) {
  switch (taps) {
    case 2:
      return resize_together<2, kChannels>(rows, table, left, n);
    case 3:
      return resize_together<3, kChannels>(rows, table, left, n);
    case 4:
      return resize_together<4, kChannels>(rows, table, left, n);
    case 5:
      return resize_together<5, kChannels>(rows, table, left, n);
    case 6:
      return resize_together<6, kChannels>(rows, table, left, n);
    default:
      return resize_together<0, kChannels>(rows, table, left, n);
  }
}

// Rows of bytes as floats, each made once: row y of the image is in slot y % kRows. An output row that is
// made of four such rows would else convert each of them, which takes as long as the sum.
struct WideRows {
  static constexpr int64_t kRows = 16;
  float* data;
  int64_t pitch;  // whole registers; what is behind a row is 0
  int64_t begin = 0, end = 0;

  ONEPASS_HD float* at(int64_t y) const { return data + y % kRows * pitch; }
  ONEPASS_HD bool has(int64_t y) const { return y >= begin && y < end; }
};

ONEPASS_WALK inline void widen_row(const uint8_t* __restrict from, float* __restrict to, int64_t n) {
  int64_t i = 0;
#if ONEPASS_FUSES && defined(__AVX2__)
  for (; i + kWide <= n; i += kWide) Wide::of_bytes(from + i).store(to + i, false);
#endif
  for (; i < n; ++i) to[i] = widen(from[i]);
}

// Elements [begin, begin + n) of output row y.
inline void resize_wide_down(const WideRows& wide, const TapTable& table, int64_t y, int64_t begin, int64_t n,
                             float* to) {
  const float* weight = table.weight + y * table.most;
  for (int32_t k = 0; k < table.count[y]; k += kRowsAtOnce) {
    const int32_t rows = table.count[y] - k < kRowsAtOnce ? table.count[y] - k : kRowsAtOnce;
    const float* from[kRowsAtOnce];
    for (int32_t r = 0; r < rows; ++r) from[r] = wide.at(table.first[y] + k + r) + begin;
    if (k == 0) {
      add_rows<false>(rows, weight, from, to + begin, n);
    } else {
      add_rows<true>(rows, weight + k, from, to + begin, n);
    }
  }
}

// to[i] = formula(from[i]).
template <class F, class O>
ONEPASS_WALK void map_elements(const F formula, const float* __restrict from, O* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = formula(from[i]);
}

// The same with each channel to a plane of its own.
template <int kChannels, class F, class O>
ONEPASS_WALK void map_to_planes(const F formula, const float* __restrict from, O* __restrict to,
                                int64_t pitch, int64_t n) {
  for (int c = 0; c < kChannels; ++c) {
    for (int64_t i = 0; i < n; ++i) to[c * pitch + i] = formula(from[i * kChannels + c]);
  }
}

}  // namespace onepass::ONEPASS_ISA
