// view.h - images in memory: of any strides as they come, and as planes of floats while they are worked on.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass {

enum class PixelType : uint8_t { kUint8, kFloat32, kFloat16, kBFloat16 };

ONEPASS_HD constexpr int64_t size_of(PixelType type) {
  return type == PixelType::kUint8 ? 1 : type == PixelType::kFloat32 ? 4 : 2;
}

// Strides are in elements.
struct ImageView {
  const void* data;
  int64_t height, width, channels;
  int64_t row, column, channel;
  PixelType type;

  // Whether a row is its pixels one after the other, each with its channels.
  ONEPASS_HD bool is_interleaved() const { return channel == 1 && column == channels; }
};

// The values of some pixels of a row: channel c of pixel i is data[c * pitch + i].
struct Planes {
  float* data;
  int64_t pitch;

  ONEPASS_HD float* operator[](int64_t channel) const { return data + channel * pitch; }
};

// Pixels of a strip at most: the planes of three channels take 6 KB of the L1 cache. A multiple of the lanes
// of sums over a row.
constexpr int64_t kStripPixels = 512;

// Where arrays of a strip's pixels that are used together begin: a line apart from a multiple of 2 KB. The
// processor takes a load for the reader of a store before it whose address has the same last 12 bits.
constexpr int64_t kStripPitch = kStripPixels + 16;

// An image of floats row by row, and in a row plane by plane, or interleaved: pixel by pixel.
struct FloatImage {
  float* data = nullptr;
  int64_t height = 0, width = 0, channels = 0;
  bool interleaved = false;

  ONEPASS_HD static int64_t pitch_of(int64_t width) { return (width + 15) / 16 * 16; }
  ONEPASS_HD static int64_t elements(int64_t height, int64_t width, int64_t channels) {
    return height * channels * pitch_of(width);
  }
  ONEPASS_HD float* row(int64_t y) const { return data + y * channels * pitch_of(width); }
  // Of an image of planes.
  ONEPASS_HD Planes at(int64_t y, int64_t x) const { return {row(y) + x, pitch_of(width)}; }
  ONEPASS_HD ImageView view() const {
    const int64_t pitch = pitch_of(width);
    return {data,
            height,
            width,
            channels,
            channels * pitch,
            interleaved ? channels : 1,
            interleaved ? 1 : pitch,
            PixelType::kFloat32};
  }
};

}  // namespace onepass
