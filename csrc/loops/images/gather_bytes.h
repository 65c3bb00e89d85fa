// gather_bytes.h - bilinear gathers from bytes whose channels follow each other, on the CPU: one load of
// eight bytes has both taps of a row, all channels.
//
// Eight bytes may reach beyond the last pixel. Strips that come so near to the end are read byte by byte.
#pragma once

#include <cstdint>
#include <cstring>

#include "loops/images/gather.h"

namespace onepass::ONEPASS_ISA {

// The pixels of a strip: where their upper left taps are, their weights, and the eight bytes there in the
// upper and the lower row, as two words each that follow each other: one store each row.
struct ByteTaps {
  alignas(64) int32_t offset[2][kStripPitch];
  alignas(64) float weight_x[kStripPitch], weight_y[kStripPitch];
  alignas(64) uint32_t word[2][2 * kStripPitch];
};

// Bytes from the first pixel of an image to the end of the last.
inline int64_t extent_of_bytes(const ImageView& image) {
  return (image.height - 1) * image.row + (image.width - 1) * image.column + image.channels;
}

inline bool is_of_packed_bytes(const ImageView& image, const TapBox& box) {
  return image.type == PixelType::kUint8 && image.is_interleaved() && image.channels <= 4 && image.row >= 0 &&
         extent_of_bytes(image) < (int64_t(1) << 30) && box.border == math::Border::kEdge;
}

// Returns the largest offset.
template <bool kAffine>
ONEPASS_WALK int32_t find_neighbours(const math::RowMap map, const TapBox box, int32_t row, int32_t column,
                                     int32_t begin, int32_t n, ByteTaps& taps) {
  int32_t most = 0;
  ONEPASS_INDEPENDENT
  for (int32_t i = 0; i < n; ++i) {
    const math::Position p = map.at<kAffine>(double(begin + i));
    const math::Taps x = math::neighbour_taps(p.x, box.x), y = math::bilinear_taps(p.y, box.y);
    const int32_t left = x.first * column, upper = y.first * row + left, lower = y.second * row + left;
    taps.offset[0][i] = upper;
    taps.offset[1][i] = lower;
    taps.weight_x[i] = x.weight;
    taps.weight_y[i] = y.weight;
    most = lower > most ? lower : most;
  }
  return most;
}

ONEPASS_WALK inline void fetch_words(const char* image, int64_t n, ByteTaps& taps) {
  for (int64_t i = 0; i < n; ++i) {
    for (int row = 0; row < 2; ++row) std::memcpy(&taps.word[row][2 * i], image + taps.offset[row][i], 8);
  }
}

ONEPASS_WALK inline void fetch_last_words(const char* image, int64_t extent, int64_t n, ByteTaps& taps) {
  for (int64_t i = 0; i < n; ++i) {
    for (int row = 0; row < 2; ++row) {
      const int64_t at = taps.offset[row][i], left = extent - at;
      uint64_t bytes = 0;
      std::memcpy(&bytes, image + at, size_t(left < 8 ? left : 8));
      std::memcpy(&taps.word[row][2 * i], &bytes, 8);
    }
  }
}

// The eight bytes of one row.
struct TapBytes {
  uint32_t low, high;
  ONEPASS_HD float at(int place) const {
    return float(int32_t((place < 4 ? low : high) >> (place % 4 * 8) & 0xffu));
  }
};

// All channels at once: the words are loaded once.
template <int kChannels, class F>
ONEPASS_WALK void blend_bytes(const F formula, const ByteTaps& taps, const Planes planes, int64_t n) {
  float* to[kChannels];
  for (int c = 0; c < kChannels; ++c) to[c] = planes[c];
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    const TapBytes upper{taps.word[0][2 * i], taps.word[0][2 * i + 1]};
    const TapBytes lower{taps.word[1][2 * i], taps.word[1][2 * i + 1]};
    const float x = taps.weight_x[i], y = taps.weight_y[i];
    for (int c = 0; c < kChannels; ++c) {
      to[c][i] = formula(upper.at(c), upper.at(c + kChannels), lower.at(c), lower.at(c + kChannels), x, y);
    }
  }
}

// n pixels of a row from column `begin` on. formula(a, b, c, d, weight x, weight y) has the four taps.
template <class F>
inline void gather_bytes(const F& formula, const ImageView& image, const math::RowMap& map, const TapBox& box,
                         int64_t begin, int64_t n, ByteTaps& taps, const Planes& to) {
  const int32_t row = int32_t(image.row), column = int32_t(image.column);
  const int32_t first = int32_t(begin), count = int32_t(n);
  const int32_t most = map.affine ? find_neighbours<true>(map, box, row, column, first, count, taps)
                                  : find_neighbours<false>(map, box, row, column, first, count, taps);
  const int64_t extent = extent_of_bytes(image);
  const char* data = static_cast<const char*>(image.data);
  if (most + 8 <= extent) {
    fetch_words(data, n, taps);
  } else {
    fetch_last_words(data, extent, n, taps);
  }
  if (image.channels == 1) return blend_bytes<1>(formula, taps, to, n);
  if (image.channels == 2) return blend_bytes<2>(formula, taps, to, n);
  if (image.channels == 3) return blend_bytes<3>(formula, taps, to, n);
  blend_bytes<4>(formula, taps, to, n);
}

}  // namespace onepass::ONEPASS_ISA
