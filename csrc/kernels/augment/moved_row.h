// moved_row.h - rows of bytes of an image that is cropped and flipped, by a map that moves columns and rows
// by whole numbers.
#pragma once

#include "kernels/augment/augment.h"
#include "loops/images/move_blocks.h"
#include "loops/images/move_bytes.h"
#include "math/image_map.h"

namespace onepass::ONEPASS_ISA {

// Whether a map moves columns and rows by whole numbers, forwards or backwards.
inline bool moves_whole(const double* m) {
  const auto whole = [](double p) {
    return p == math::nearest_integer(p) && p < math::kFar && -p < math::kFar;
  };
  return (m[0] == 1 || m[0] == -1) && (m[4] == 1 || m[4] == -1) && m[1] == 0 && m[3] == 0 && m[6] == 0 &&
         m[7] == 0 && m[8] == 1 && whole(m[2]) && whole(m[5]);
}

// Columns, of `width`, whose positions are within least .. most: [begin, end).
inline void find_columns(double direction, double offset, double least, double most, int64_t width,
                         int64_t& begin, int64_t& end) {
  const double first = direction > 0 ? least - offset : offset - most,
               last = direction > 0 ? most - offset : offset - least;
  begin = int64_t(math::clamped(first, 0, double(width)));
  end = int64_t(math::clamped(last + 1, double(begin), double(width)));
}

class MovedRows {
 public:
  static bool fits(const ImageView& image, const ImagePass& pass) {
    return pass.kind == double(PassKind::kGather) && pass.border == 0 && moves_whole(pass.map) &&
           image.type == PixelType::kUint8 && image.is_interleaved() && image.channels <= kMovedChannels;
  }

  MovedRows() = default;
  MovedRows(const ImageView& image, const ImagePass& pass) : image_(image), pass_(&pass) {}

  // Asks for the bytes of a row.
  void fetch(int64_t y) const {
    const int64_t left = int64_t(pass_->left), right = int64_t(pass_->right), channels = image_.channels;
    if (right - left > 2 * int64_t(pass_->width)) return;
    fetch_lines(row(y) + left * channels, (right - left) * channels);
  }

  // The columns that are not clamped: [begin, end).
  void find_inside(int64_t& begin, int64_t& end) const {
    find_columns(pass_->map[0], pass_->map[2], pass_->left, pass_->right - 1, int64_t(pass_->width), begin,
                 end);
  }
  bool forwards() const { return pass_->map[0] > 0; }

  // The bytes of columns [begin, end) in order: in the image, or in `buffer`, which has room for 16 bytes
  // more.
  const uint8_t* bytes(int64_t y, int64_t begin, int64_t end, uint8_t* buffer) const {
    int64_t first, last;
    find_inside(first, last);
    if (forwards() && first <= begin && end <= last) return row(y) + source(begin) * image_.channels;
    put(y, begin, end, first, last, buffer);
    return buffer;
  }

  // The same always in `to`, a few columns; it has no room for more.
  void copy(int64_t y, int64_t begin, int64_t end, uint8_t* to) const {
    int64_t first, last;
    find_inside(first, last);
    const int64_t channels = image_.channels;
    if (forwards() && first <= begin && end <= last) {
      std::memcpy(to, row(y) + source(begin) * channels, size_t((end - begin) * channels));
    } else {
      repeat(row(y), begin, end, to);
    }
  }

  const uint8_t* row(int64_t y) const {
    const double* m = pass_->map;
    const int64_t at = int64_t(math::clamped(m[4] * double(y) + m[5], pass_->top, pass_->bottom - 1));
    return static_cast<const uint8_t*>(image_.data) + at * image_.row;
  }
  int64_t source(int64_t x) const {
    const double* m = pass_->map;
    return int64_t(math::clamped(m[0] * double(x) + m[2], pass_->left, pass_->right - 1));
  }

 private:
  // first, last: the columns that are not clamped.
  void put(int64_t y, int64_t begin, int64_t end, int64_t first, int64_t last, uint8_t* buffer) const {
    const int64_t channels = image_.channels;
    const uint8_t* from = row(y);
    first = first > begin ? (first < end ? first : end) : begin;
    last = last < end ? (last > first ? last : first) : end;
    repeat(from, begin, first, buffer);
    if (first < last) {
      uint8_t* to = buffer + (first - begin) * channels;
      if (forwards()) {
        std::memcpy(to, from + source(first) * channels, size_t((last - first) * channels));
      } else {
        with_channels(channels, [&](auto known) {
          turn_pixels<decltype(known)::value>(from + source(last - 1) * channels, to, last - first);
        });
      }
    }
    repeat(from, last, end, buffer + (last - begin) * channels);
  }
  void repeat(const uint8_t* from, int64_t begin, int64_t end, uint8_t* to) const {
    const size_t channels = size_t(image_.channels);
    for (int64_t x = begin; x < end; ++x, to += channels)
      std::memcpy(to, from + source(x) * int64_t(channels), channels);
  }

  ImageView image_{};
  const ImagePass* pass_ = nullptr;
};

}  // namespace onepass::ONEPASS_ISA
