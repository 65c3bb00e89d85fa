// rows_ahead.h - asks for the rows of an image that a slanted gather will read soon, on the CPU.
//
// Such a gather reads a few pixels of many rows, which no prefetcher of a processor foresees: without this it
// waits for each line, three quarters of its time with an image in memory.
#pragma once

#include <cstdint>

#include "loops/common/fetch.h"
#include "loops/images/gather.h"

namespace onepass::ONEPASS_ISA {

class RowsAhead {
 public:
  RowsAhead() = default;
  // The pixels that height x width pixels under an affine map are made of.
  RowsAhead(const ImageView& image, const double (&map)[9], const TapBox& box, int64_t height, int64_t width)
      : image_(image), box_(box), map_(&map), last_(width - 1), rows_(height) {
    if (image.column <= 0 || !math::RowMap::make(map, 0).affine) return;
    Range columns;
    add_ends(0, true, columns);
    add_ends(height - 1, true, columns);
    const int64_t left = within(columns.least, box.x), right = within(columns.most + 1, box.x);
    const int64_t size = size_of(image.type);
    begin_ = left * image.column * size;
    bytes_ = ((right - left) * image.column + image.channels) * size;
    // Planes have rows of their own.
    active_ = image.is_interleaved() || image.channels == 1;
  }

  // Row y of the output is made next.
  ONEPASS_HD void fetch(int64_t y) {
    if (!active_) return;
    Range needed;
    add_ends(y, false, needed);
    add_ends(y + kRows < rows_ ? y + kRows : rows_ - 1, false, needed);
    const int64_t top = within(needed.least, box_.y), bottom = within(needed.most + 1, box_.y) + 1;
    const bool apart = top > end_ || bottom < first_;
    if (apart) first_ = end_ = top;
    for (int64_t row = top; row < first_; ++row) fetch_row(row);
    for (int64_t row = end_; row < bottom; ++row) fetch_row(row);
    first_ = top < first_ ? top : first_;
    end_ = bottom > end_ ? bottom : end_;
  }

 private:
  static constexpr int64_t kRows = 4;  // of the output

  struct Range {
    double least = math::kFar, most = -math::kFar;
  };
  static int64_t within(double p, const math::Axis& axis) {
    return int64_t(math::clamped(p, axis.least, axis.most));
  }
  void add_ends(int64_t y, bool along_x, Range& range) const {
    const math::RowMap map = math::RowMap::make(*map_, double(y));
    const math::Position a = map.affine_at(0), b = map.affine_at(double(last_));
    widen_range(along_x ? a.x : a.y, range);
    widen_range(along_x ? b.x : b.y, range);
  }
  static void widen_range(double at, Range& range) {
    range.least = at < range.least ? at : range.least;
    range.most = at > range.most ? at : range.most;
  }
  void fetch_row(int64_t row) const {
    fetch_lines(static_cast<const char*>(image_.data) + row * image_.row * size_of(image_.type) + begin_,
                bytes_);
  }

  ImageView image_{};
  TapBox box_{};
  const double (*map_)[9] = nullptr;
  int64_t last_ = 0, rows_ = 0, begin_ = 0, bytes_ = 0;
  int64_t first_ = 0, end_ = 0;
  bool active_ = false;
};

}  // namespace onepass::ONEPASS_ISA
