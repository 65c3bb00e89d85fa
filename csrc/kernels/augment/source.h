// source.h - where the pixels of a pass come from: a gather, a resize, or an image of floats that was kept.
#pragma once

#include "kernels/augment/moved_row.h"
#include "kernels/augment/workspace.h"
#include "loops/images/gather_bytes.h"
#include "loops/images/gather_pixels.h"
#include "loops/images/resize.h"
#include "loops/images/rows_ahead.h"
#include "math/color.h"

namespace onepass::ONEPASS_ISA {

struct BilinearBytes {
  ONEPASS_HD float operator()(float a, float b, float c, float d, float x, float y) const {
    return math::of_byte(math::bilinear(a, b, c, d, x, y));
  }
};

class PassSource {
 public:
  // The first source of a pass. is_ours: whether the image is one of the workspace's, behind which is memory.
  PassSource(const ImageView& image, const ImagePass& pass, bool is_ours, const Workspace& workspace)
      : image_(image), pass_(&pass), workspace_(workspace) {
    const auto kind = Interpolation(int(pass.interpolation));
    smooth_ = kind == Interpolation::kBilinear || kind == Interpolation::kBicubic;
    nearest_ = kind == Interpolation::kFloor ? math::Nearest::kFloor : math::Nearest::kRound;
    box_ = {{pass.left, pass.right - 1}, {pass.top, pass.bottom - 1}, math::Border(int(pass.border))};
    moves_ = MovedRows::fits(image, pass);
    if (moves_) moved_ = MovedRows(image, pass);
    packed_ = smooth_ && is_of_packed_bytes(image, box_);
    pixels_ = is_ours && smooth_ && is_of_float_pixels(image);
    if (PassKind(int(pass.kind)) != PassKind::kResize || !smooth_) {
      ahead_ = RowsAhead(image, pass.map, box_, int64_t(pass.height), int64_t(pass.width));
      return;
    }
    resizes_ = true;
    const int64_t height = int64_t(pass.height), width = int64_t(pass.width);
    const math::ResizeAxis x = resize_axis(pass, true), y = resize_axis(pass, false);
    columns_ = TapTable::at(workspace.columns, width, x.most_taps());
    rows_ = TapTable::at(workspace.rows, height, y.most_taps());
    fill_table(x, width, columns_);
    fill_table(y, height, rows_);
  }
  // A kept image: values, not elements.
  PassSource(const FloatImage& kept, const Workspace& workspace) : kept_(kept), workspace_(workspace) {}

  // From here on a kept image is sharpened.
  void sharpen(const math::Sharpness& sharpness) {
    sharpens_ = true;
    sharpness_ = sharpness;
  }

  void begin_row(int64_t y) {
    y_ = y;
    if (kept_.data) return;
    if (moves_) return moved_.fetch(y + kRowsAhead);
    if (!resizes_) {
      map_ = math::RowMap::make(pass_->map, double(y));
      ahead_.fetch(y);
      return;
    }
    const int64_t left = int64_t(pass_->left), right = int64_t(pass_->right);
    resize_down(image_, rows_, y, left, right, row());
  }

  // The values of n pixels of the row that was begun, from column x on.
  void fill(int64_t x, int64_t n, const Planes& to) {
    if (kept_.data) return fill_kept(x, n, to);
    if (moves_) return fill_moved(x, n, to);
    if (resizes_) {
      for (int64_t c = 0; c < image_.channels; ++c) {
        resize_along(row()[c], columns_, int64_t(pass_->left), x, n, to[c]);
      }
    } else if (packed_) {
      return gather_bytes(BilinearBytes{}, image_, map_, box_, x, n, *workspace_.bytes, to);
    } else if (pixels_) {
      find_taps(map_, box_, x, n, *workspace_.taps);
      const float* data = static_cast<const float*>(image_.data);
      if (image_.channels == 3)
        return gather_pixels<3>(Bilinear{}, data, image_.row, *workspace_.taps, to, n);
      return gather_pixels<4>(Bilinear{}, data, image_.row, *workspace_.taps, to, n);
    } else if (smooth_) {
      find_taps(map_, box_, x, n, *workspace_.taps);
      gather(image_, true, *workspace_.taps, n, to);
    } else {
      find_nearest_taps(map_, box_, nearest_, x, n, *workspace_.taps);
      gather(image_, false, *workspace_.taps, n, to);
    }
    if (image_.type != PixelType::kUint8) return;
    for (int64_t c = 0; c < image_.channels; ++c) map_plane(math::OfByte{}, to[c], n);
  }

 private:
  Planes row() const { return {workspace_.row, FloatImage::pitch_of(int64_t(pass_->right - pass_->left))}; }

  static constexpr int64_t kRowsAhead = 4;

  void fill_moved(int64_t x, int64_t n, const Planes& to) const {
    const uint8_t* bytes = moved_.bytes(y_, x, x + n, reinterpret_cast<uint8_t*>(workspace_.pixels));
    uint8_t* planes = reinterpret_cast<uint8_t*>(workspace_.narrow);
    with_channels(image_.channels,
                  [&](auto known) { take_apart<decltype(known)::value>(bytes, planes, kStripPitch, n); });
    for (int64_t c = 0; c < image_.channels; ++c)
      widen_bytes(math::OfByte{}, planes + c * kStripPitch, to[c], n);
  }

  void fill_kept(int64_t x, int64_t n, const Planes& to) {
    const bool is_edge = y_ == 0 || y_ == kept_.height - 1;
    for (int64_t c = 0; c < kept_.channels; ++c) {
      const float* own = kept_.at(y_, x)[c];
      if (!sharpens_ || kept_.height < 3 || kept_.width < 3) {
        std::memcpy(to[c], own, size_t(n) * sizeof(float));
      } else if (is_edge) {
        for (int64_t i = 0; i < n; ++i) to[c][i] = math::Sharpness::at_edge(own[i]);
      } else {
        sharpen_row(kept_.at(y_ - 1, x)[c], own, kept_.at(y_ + 1, x)[c], x, n, to[c]);
      }
    }
  }
  ONEPASS_WALK void sharpen_row(const float* above, const float* own, const float* below, int64_t x,
                                int64_t n, float* to) const {
    const int64_t begin = x == 0 ? 1 : 0, end = x + n == kept_.width ? n - 1 : n;
    if (begin == 1) to[0] = math::Sharpness::at_edge(own[0]);
    if (end < n) to[n - 1] = math::Sharpness::at_edge(own[n - 1]);
    const math::Sharpness formula = sharpness_;
    ONEPASS_INDEPENDENT
    for (int64_t i = begin; i < end; ++i) {
      to[i] = formula(own[i], above[i - 1] + above[i] + above[i + 1], own[i - 1] + own[i + 1],
                      below[i - 1] + below[i] + below[i + 1]);
    }
  }

  ImageView image_{};
  const ImagePass* pass_ = nullptr;
  FloatImage kept_;
  Workspace workspace_;
  TapBox box_{};
  math::Nearest nearest_ = math::Nearest::kRound;
  MovedRows moved_;
  bool moves_ = false;
  bool smooth_ = false, packed_ = false, pixels_ = false, resizes_ = false, sharpens_ = false;
  math::Sharpness sharpness_{};
  TapTable columns_{}, rows_{};
  math::RowMap map_{};
  RowsAhead ahead_;
  int64_t y_ = 0;
};

}  // namespace onepass::ONEPASS_ISA
