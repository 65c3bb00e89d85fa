// resized_rows.h - the rows of a pass that resizes an image whose channels follow each other: made some at a
// time, and stored at once where nothing else is done with them.
#pragma once

#include "kernels/augment/workspace.h"
#include "loops/images/resize_rows.h"
#include "math/color.h"

namespace onepass::ONEPASS_ISA {

// From a float of a source to a value, and to a stored byte.
struct ValueAsItIs {
  ONEPASS_HD float operator()(float v) const { return v; }
};
struct ValueToByte {
  ONEPASS_HD uint8_t operator()(float v) const { return math::to_byte(v); }
};
struct ByteToByte {
  ONEPASS_HD uint8_t operator()(float raw) const { return math::to_byte(math::of_byte(raw)); }
};

class ResizedRows {
 public:
  static bool fits(const ImageView& image, const ImagePass& pass) {
    const auto kind = Interpolation(int(pass.interpolation));
    return pass.kind == double(PassKind::kResize) && image.is_interleaved() &&
           (image.channels == 3 || image.channels == 4) &&
           (kind == Interpolation::kBilinear || kind == Interpolation::kBicubic);
  }

  ResizedRows() = default;
  // The workspace has the tables of taps of this pass already.
  ResizedRows(const ImageView& image, const ImagePass& pass, const Workspace& workspace)
      : image_(image), height_(int64_t(pass.height)), width_(int64_t(pass.width)) {
    left_ = int64_t(pass.left);
    right_ = int64_t(pass.right);
    columns_ = TapTable::at(workspace.columns, width_, resize_axis(pass, true).most_taps());
    rows_ = TapTable::at(workspace.rows, height_, resize_axis(pass, false).most_taps());
    is_bytes_ = image.type == PixelType::kUint8;
    // Taps that a pixel does not have get the weight 0, and must be finite: bytes are, and so is what stands
    // behind the row.
    taps_ = is_bytes_ ? most_taps_of(columns_, width_) : 0;
    const int64_t n = (right_ - left_) * image.channels;
    wide_ = {workspace.wide, wide_pitch(n)};
    for (int64_t r = 0; is_bytes_ && r < WideRows::kRows; ++r) {
      for (int64_t i = n; i < wide_.pitch; ++i) wide_.at(r)[i] = 0;
    }
    for (int64_t r = 0; r < kRowsTogether; ++r) {
      between_[r] = workspace.row + r * (n + kBehindRow);
      made_[r] = workspace.resized + r * resized_floats(width_, image.channels);
      for (int64_t i = 0; i < kBehindRow; ++i) between_[r][n + i] = 0;
    }
  }

  // Rows come in order, from 0 on.
  void begin_row(int64_t y) {
    if (y % kRowsTogether == 0) make(y);
    row_ = made_[y % kRowsTogether];
  }

  // The values of n pixels of the row that was begun, from column x on.
  void fill(int64_t x, int64_t n, const Planes& to) const {
    const float* from = row_ + x * image_.channels;
    if (image_.channels == 3) {
      return is_bytes_ ? part_planes<3>(math::OfByte{}, from, to, n)
                       : part_planes<3>(ValueAsItIs{}, from, to, n);
    }
    return is_bytes_ ? part_planes<4>(math::OfByte{}, from, to, n)
                     : part_planes<4>(ValueAsItIs{}, from, to, n);
  }

  // The values of the whole row, pixel by pixel.
  void keep(float* to) const {
    const int64_t n = width_ * image_.channels;
    if (is_bytes_) return map_elements(math::OfByte{}, row_, to, n);
    map_elements(ValueAsItIs{}, row_, to, n);
  }

  // Whether store() is for outputs like this one. Planes of bytes take less time by way of planes of floats.
  static bool stores(const Augment& op) {
    return op.stored == PixelType::kFloat32 || (op.stored == PixelType::kUint8 && op.channels_last);
  }
  // The whole row as row y of sample i.
  void store(const Augment& op, int64_t i, int64_t y) const {
    if (op.stored == PixelType::kUint8) {
      return is_bytes_ ? store_as<uint8_t>(ByteToByte{}, op, i, y)
                       : store_as<uint8_t>(ValueToByte{}, op, i, y);
    }
    return is_bytes_ ? store_as<float>(math::OfByte{}, op, i, y) : store_as<float>(ValueAsItIs{}, op, i, y);
  }

 private:
  void make(int64_t y) {
    RowsTogether rows;
    for (int64_t r = 0; r < kRowsTogether; ++r) {
      // Below the last row it is made again.
      const bool is_there = y + r < height_;
      rows.from[r] = between_[is_there ? r : 0];
      rows.to[r] = made_[r];
    }
    make_down(y, y + kRowsTogether < height_ ? y + kRowsTogether : height_);
    if (image_.channels == 3) return resize_rows_along<3>(rows, taps_, columns_, left_, width_);
    resize_rows_along<4>(rows, taps_, columns_, left_, width_);
  }

  struct Span {
    int64_t first, last;
  };
  // The rows of the image that rows [begin, end) are made of: [first, last).
  Span taps_of(int64_t begin, int64_t end) const {
    Span span{image_.height, 0};
    for (int64_t y = begin; y < end; ++y) {
      const int64_t first = rows_.first[y], last = first + rows_.count[y];
      span = {first < span.first ? first : span.first, last > span.last ? last : span.last};
    }
    return span;
  }
  // Rows [begin, end) before they are resized along.
  void make_down(int64_t begin, int64_t end) {
    const auto [first, last] = taps_of(begin, end);
    if (!is_bytes_ || last - first > WideRows::kRows) {
      for (int64_t y = begin; y < end; ++y)
        resize_pixels_down(image_, rows_, y, left_, right_, between_[y - begin]);
      return;
    }
    const int64_t n = (right_ - left_) * image_.channels;
    const uint8_t* bytes = static_cast<const uint8_t*>(image_.data) + left_ * image_.column;
    for (int64_t x = 0; x < n; x += kTile) {
      const int64_t some = n - x < kTile ? n - x : kTile,
                    padded = wide_.pitch - x < kTile ? wide_.pitch - x : kTile;
      for (int64_t y = first; y < last; ++y) {
        if (!wide_.has(y)) widen_row(bytes + y * image_.row + x, wide_.at(y) + x, some);
      }
      for (int64_t y = begin; y < end; ++y) resize_wide_down(wide_, rows_, y, x, padded, between_[y - begin]);
    }
    wide_.begin = first;
    wide_.end = last;
  }

  template <class O, class F>
  void store_as(const F& formula, const Augment& op, int64_t i, int64_t y) const {
    O* output = static_cast<O*>(op.output) + i * op.channels * height_ * width_;
    if (op.channels_last) {
      const int64_t n = width_ * op.channels;
      return map_elements(formula, row_, output + y * n, n);
    }
    const int64_t plane = height_ * width_;
    if (op.channels == 3) return map_to_planes<3>(formula, row_, output + y * width_, plane, width_);
    map_to_planes<4>(formula, row_, output + y * width_, plane, width_);
  }

  // Elements of rows that stay in the L1 cache while they are added: those of about ten.
  static constexpr int64_t kTile = 512;

  ImageView image_{};
  int64_t height_ = 0, width_ = 0, left_ = 0, right_ = 0;
  TapTable columns_{}, rows_{};
  WideRows wide_{};
  int64_t taps_ = 0;
  bool is_bytes_ = false;
  float* between_[kRowsTogether];
  float* made_[kRowsTogether];
  const float* row_ = nullptr;
};

}  // namespace onepass::ONEPASS_ISA
