// operations.h - carries the operations of a pass out on a strip of planes.
#pragma once

#include "kernels/augment/statistic.h"
#include "math/normal.h"

namespace onepass::ONEPASS_ISA {

// What a blend does with the pixels of a strip, one share of coverage each.
struct BlendWith {
  math::Canvas canvas;
  float fill;
  ONEPASS_HD float operator()(float v, float share) const { return canvas.blend(v, share, fill); }
};

template <bool kAffine>
ONEPASS_WALK void find_coverage(const math::Canvas canvas, const math::RowMap map, int32_t begin, int32_t n,
                                float* share) {
  ONEPASS_INDEPENDENT
  for (int32_t i = 0; i < n; ++i) share[i] = canvas.coverage(map.at<kAffine>(double(begin + i)));
}

class Operations {
 public:
  Operations(const ImageOp* ops, const Augment& call, const Workspace& workspace)
      : ops_(ops), call_(call), workspace_(workspace) {}

  // Carries ops [begin, end) out on the n pixels of row y from column x on.
  void apply(int64_t begin, int64_t end, int64_t y, int64_t x, int64_t n, const Planes& v) const {
    for (int64_t k = begin; k < end; ++k) apply(ops_[k], y, x, n, v);
  }

 private:
  int64_t channels() const { return call_.channels; }
  const double* values(const ImageOp& op) const { return call_.values + int64_t(op.first); }
  template <class F>
  void map_all(const F& formula, int64_t n, const Planes& v) const {
    for (int64_t c = 0; c < channels(); ++c) map_plane(formula, v[c], n);
  }
  template <class F>
  void map_colors(const F& formula, int64_t n, const Planes& v) const {
    if (channels() == 3) map_pixels<math::Rgb>(formula, v[0], v[1], v[2], n);
  }

  void apply(const ImageOp& op, int64_t y, int64_t x, int64_t n, const Planes& v) const {
    switch (OpKind(int(op.kind))) {
      case OpKind::kBlend:
        return blend(op, y, x, n, v);
      case OpKind::kBrightness:
        return map_all(math::Brightness{float(op.a[0])}, n, v);
      case OpKind::kSaturation:
        return map_colors(math::Saturation::make(op.a[0]), n, v);
      case OpKind::kHue:
        return map_colors(math::Hue{float(op.a[0])}, n, v);
      case OpKind::kGrayscale:
        return map_colors(math::Grayscale{}, n, v);
      case OpKind::kInvert:
        return map_all(math::Invert{}, n, v);
      case OpKind::kSolarize:
        return map_all(math::Solarize{float(op.a[0])}, n, v);
      case OpKind::kPosterize:
        return map_all(math::Posterize::make(op.a[0]), n, v);
      case OpKind::kNormalize:
        for (int64_t c = 0; c < channels(); ++c) {
          map_plane(math::Normalize{float(values(op)[c]), float(values(op)[channels() + c])}, v[c], n);
        }
        return;
      case OpKind::kErase:
        return erase(op, y, x, n, v);
      case OpKind::kClamp:
        return map_all(math::ClampValue{float(op.a[0]), float(op.a[1])}, n, v);
      default:  // those that need a statistic are carried out elsewhere
        return;
    }
  }

  // In an affine map positions along a row are in order: the pixels between two that are covered are covered.
  void blend(const ImageOp& op, int64_t y, int64_t x, int64_t n, const Planes& v) const {
    const double (&map)[9] = reinterpret_cast<const double (&)[9]>(op.a);
    const math::RowMap row = math::RowMap::make(map, double(y));
    const math::Canvas canvas{op.a[kBlendWidth], op.a[kBlendHeight], float(op.a[kBlendPower]),
                              op.a[kBlendSoft] != 0};
    const math::Columns covered = row.affine ? canvas.covered(row, x + n) : math::Columns{1, 0};
    const int64_t end = x + n;
    if (covered.first > covered.last) return blend_columns(op, canvas, row, x, x, end, v);
    blend_columns(op, canvas, row, x, x, covered.first < end ? covered.first : end, v);
    blend_columns(op, canvas, row, x, covered.last + 1 > x ? covered.last + 1 : x, end, v);
  }
  // Columns [begin, end) of a strip that begins at column x.
  void blend_columns(const ImageOp& op, const math::Canvas& canvas, const math::RowMap& row, int64_t x,
                     int64_t begin, int64_t end, const Planes& v) const {
    if (begin >= end) return;
    float* share = workspace_.grey;
    if (row.affine) {
      find_coverage<true>(canvas, row, int32_t(begin), int32_t(end - begin), share);
    } else {
      find_coverage<false>(canvas, row, int32_t(begin), int32_t(end - begin), share);
    }
    for (int64_t c = 0; c < channels(); ++c) {
      map_planes(BlendWith{canvas, float(values(op)[c])}, v[c] + (begin - x), share, end - begin);
    }
  }

  void erase(const ImageOp& op, int64_t y, int64_t x, int64_t n, const Planes& v) const {
    const int64_t left = int64_t(op.a[0]), top = int64_t(op.a[1]), right = int64_t(op.a[2]),
                  bottom = int64_t(op.a[3]);
    const int64_t begin = left > x ? left : x, end = right < x + n ? right : x + n;
    if (y < top || y >= bottom || begin >= end) return;
    for (int64_t c = 0; c < channels(); ++c) {
      float* to = v[c] + (begin - x);
      if (op.a[kEraseMode] == 0) {
        fill_plane(to, float(values(op)[c]), end - begin);
      } else {
        const int64_t row = (c * (bottom - top) + (y - top)) * (right - left);
        fill_noise(op, row + (begin - left), end - begin, to);
      }
    }
  }

  // Numbers `first` .. first + n of an operation's noise.
  ONEPASS_WALK static void fill_noise(const ImageOp& op, int64_t first, int64_t n, float* to) {
    for (int64_t i = 0; i < n;) {
      const PhiloxWords words = noise_words(op, (first + i) / 4);
      const math::NormalPair a = math::normal_pair(words.word[0], words.word[1]);
      const math::NormalPair b = math::normal_pair(words.word[2], words.word[3]);
      const float numbers[4] = {a.first, a.second, b.first, b.second};
      for (int64_t k = (first + i) % 4; k < 4 && i < n; ++k, ++i) to[i] = numbers[k];
    }
  }

  const ImageOp* ops_;
  const Augment& call_;
  const Workspace& workspace_;
};

}  // namespace onepass::ONEPASS_ISA
