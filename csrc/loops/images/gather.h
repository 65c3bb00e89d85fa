// gather.h - reads an image at mapped positions, strip by strip, on the CPU: taps and weights of all pixels
// first, then the elements, channel by channel.
#pragma once

#include <cstdint>

#include "loops/images/pixels.h"
#include "math/image_map.h"

namespace onepass::ONEPASS_ISA {

// Where the taps of a strip's pixels are, their weights, and the elements there.
struct TapStrip {
  alignas(64) int32_t x[2][kStripPitch];
  alignas(64) int32_t y[2][kStripPitch];
  alignas(64) float weight_x[kStripPitch], weight_y[kStripPitch];
  alignas(64) float tap[4][kStripPitch];
};

// The box that taps come from, and what stands for pixels outside it.
struct TapBox {
  math::Axis x, y;
  math::Border border;
};

template <bool kAffine>
ONEPASS_WALK void find_bilinear(const math::RowMap map, const TapBox box, int32_t begin, int32_t n,
                                TapStrip& strip) {
  ONEPASS_INDEPENDENT
  for (int32_t i = 0; i < n; ++i) {
    const math::Position p = map.at<kAffine>(double(begin + i));
    const math::Taps x = math::bilinear_taps(p.x, box.x), y = math::bilinear_taps(p.y, box.y);
    strip.x[0][i] = x.first;
    strip.x[1][i] = x.second;
    strip.weight_x[i] = x.weight;
    strip.y[0][i] = y.first;
    strip.y[1][i] = y.second;
    strip.weight_y[i] = y.weight;
  }
}

template <bool kAffine>
ONEPASS_WALK void find_folded(const math::RowMap map, const TapBox box, int32_t begin, int32_t n,
                              TapStrip& strip) {
  for (int32_t i = 0; i < n; ++i) {
    const math::Position p = map.at<kAffine>(double(begin + i));
    const math::Taps x = math::folded_taps(p.x, box.x, box.border),
                     y = math::folded_taps(p.y, box.y, box.border);
    strip.x[0][i] = x.first;
    strip.x[1][i] = x.second;
    strip.weight_x[i] = x.weight;
    strip.y[0][i] = y.first;
    strip.y[1][i] = y.second;
    strip.weight_y[i] = y.weight;
  }
}

template <bool kAffine, math::Nearest kKind>
ONEPASS_WALK void find_nearest(const math::RowMap map, const TapBox box, int32_t begin, int32_t n,
                               TapStrip& strip) {
  ONEPASS_INDEPENDENT
  for (int32_t i = 0; i < n; ++i) {
    const math::Position p = map.at<kAffine>(double(begin + i));
    strip.x[0][i] = math::nearest_tap(p.x, box.x, kKind);
    strip.y[0][i] = math::nearest_tap(p.y, box.y, kKind);
  }
}

ONEPASS_WALK inline void find_folded_nearest(const math::RowMap map, const TapBox box, math::Nearest kind,
                                             int32_t begin, int32_t n, TapStrip& strip) {
  for (int32_t i = 0; i < n; ++i) {
    const double column = double(begin + i);
    const math::Position p = map.affine ? map.affine_at(column) : map.projected_at(column);
    strip.x[0][i] = math::folded_tap(p.x, box.x, kind, box.border);
    strip.y[0][i] = math::folded_tap(p.y, box.y, kind, box.border);
  }
}

inline void find_taps(const math::RowMap& map, const TapBox& box, int64_t begin, int64_t n, TapStrip& strip) {
  const int32_t first = int32_t(begin), count = int32_t(n);
  if (box.border != math::Border::kEdge) {
    return map.affine ? find_folded<true>(map, box, first, count, strip)
                      : find_folded<false>(map, box, first, count, strip);
  }
  return map.affine ? find_bilinear<true>(map, box, first, count, strip)
                    : find_bilinear<false>(map, box, first, count, strip);
}

inline void find_nearest_taps(const math::RowMap& map, const TapBox& box, math::Nearest kind, int64_t begin,
                              int64_t n, TapStrip& strip) {
  using math::Nearest;
  const int32_t first = int32_t(begin), count = int32_t(n);
  if (box.border != math::Border::kEdge) {
    return find_folded_nearest(map, box, kind, first, count, strip);
  }
  if (kind == Nearest::kRound) {
    return map.affine ? find_nearest<true, Nearest::kRound>(map, box, first, count, strip)
                      : find_nearest<false, Nearest::kRound>(map, box, first, count, strip);
  }
  return map.affine ? find_nearest<true, Nearest::kFloor>(map, box, first, count, strip)
                    : find_nearest<false, Nearest::kFloor>(map, box, first, count, strip);
}

// to[i] = the element at (y[i], x[i]) of one channel.
template <class E>
ONEPASS_WALK void fetch_elements(const E* channel, int64_t row, int64_t column, const int32_t* y,
                                 const int32_t* x, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = widen(channel[y[i] * row + x[i] * column]);
}

template <class F>
ONEPASS_WALK void blend_taps(const F formula, const TapStrip& strip, float* to, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    to[i] = formula(strip.tap[0][i], strip.tap[1][i], strip.tap[2][i], strip.tap[3][i], strip.weight_x[i],
                    strip.weight_y[i]);
  }
}

struct Bilinear {
  template <class T>
  ONEPASS_HD T operator()(T a, T b, T c, T d, T x, T y) const {
    return math::bilinear(a, b, c, d, x, y);
  }
};

// The strip's pixels from taps that find_taps() or find_nearest_taps() found.
inline void gather(const ImageView& image, bool bilinear, TapStrip& strip, int64_t n, const Planes& to) {
  with_pixels(image.type, [&](auto element) ONEPASS_INLINED {
    using E = decltype(element);
    for (int64_t c = 0; c < image.channels; ++c) {
      const E* channel = static_cast<const E*>(image.data) + c * image.channel;
      if (!bilinear) {
        fetch_elements(channel, image.row, image.column, strip.y[0], strip.x[0], to[c], n);
        continue;
      }
      for (int tap = 0; tap < 4; ++tap) {
        fetch_elements(channel, image.row, image.column, strip.y[tap / 2], strip.x[tap % 2], strip.tap[tap],
                       n);
      }
      blend_taps(Bilinear{}, strip, to[c], n);
    }
  });
}

}  // namespace onepass::ONEPASS_ISA
