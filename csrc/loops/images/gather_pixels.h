// gather_pixels.h - bilinear gathers from floats whose channels follow each other, on the CPU: the channels
// of a tap are one load, and go through the formula side by side.
#pragma once

#include <cstdint>

#include "loops/images/gather.h"
#include "loops/images/resize_pixels.h"

namespace onepass::ONEPASS_ISA {

// Floats behind the last pixel that are read.
constexpr int64_t kBehindPixels = 4;

inline bool is_of_float_pixels(const ImageView& image) {
  return image.type == PixelType::kFloat32 && image.is_interleaved() &&
         (image.channels == 3 || image.channels == 4);
}

template <int kChannels, class F>
ONEPASS_HD Channels gather_pixel(const F& formula, const float* data, int64_t row, const TapStrip& strip,
                                 int64_t i) {
  const float *upper = data + strip.y[0][i] * row, *lower = data + strip.y[1][i] * row;
  const int64_t left = strip.x[0][i] * kChannels, right = strip.x[1][i] * kChannels;
  return formula(load_channels(upper + left), load_channels(upper + right), load_channels(lower + left),
                 load_channels(lower + right), each(strip.weight_x[i]), each(strip.weight_y[i]));
}

// The strip's pixels from taps that find_taps() found, to planes: four pixels at a time are turned around.
template <int kChannels, class F>
ONEPASS_WALK void gather_pixels(const F formula, const float* data, int64_t row, const TapStrip& strip,
                                const Planes to, int64_t n) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    Channels v[4];
    ONEPASS_UNROLLED
    for (int k = 0; k < 4; ++k) v[k] = gather_pixel<kChannels>(formula, data, row, strip, i + k);
    const Channels low = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5),
                   high = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7),
                   low_behind = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5),
                   high_behind = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
    const Channels planes[4] = {__builtin_shufflevector(low, low_behind, 0, 1, 4, 5),
                                __builtin_shufflevector(low, low_behind, 2, 3, 6, 7),
                                __builtin_shufflevector(high, high_behind, 0, 1, 4, 5),
                                __builtin_shufflevector(high, high_behind, 2, 3, 6, 7)};
    ONEPASS_UNROLLED
    for (int c = 0; c < kChannels; ++c) std::memcpy(to[c] + i, &planes[c], sizeof(Channels));
  }
  for (; i < n; ++i) {
    const Channels v = gather_pixel<kChannels>(formula, data, row, strip, i);
    for (int c = 0; c < kChannels; ++c) to[c][i] = v[c];
  }
}

}  // namespace onepass::ONEPASS_ISA
