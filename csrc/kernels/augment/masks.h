// masks.h - moves the elements of masks as they are, of 1, 2, 4 or 8 bytes: the nearest one, or a fill.
#pragma once

#include "kernels/augment/operations.h"

namespace onepass::ONEPASS_ISA {

template <class E>
ONEPASS_WALK void move_elements(const E* mask, int64_t row, int64_t column, const int32_t* y,
                                const int32_t* x, E* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = mask[y[i] * row + x[i] * column];
}

template <class E>
ONEPASS_WALK void fill_uncovered(const float* share, E fill, E* to, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) to[i] = share[i] == 1 ? to[i] : fill;
}

template <class E>
class MaskRows {
 public:
  MaskRows(const AugmentMasks& op, int64_t i)
      : op_(op), mask_(op.masks[i]), pass_(op.passes[i]), ops_(op.ops + i * op.op_count) {
    out_ = static_cast<E*>(op.output) + i * op.height * op.width;
  }

  void make() const {
    TapStrip strip;
    const auto kind = Interpolation(int(pass_.interpolation)) == Interpolation::kFloor
                          ? math::Nearest::kFloor
                          : math::Nearest::kRound;
    const TapBox box{
        {pass_.left, pass_.right - 1}, {pass_.top, pass_.bottom - 1}, math::Border(int(pass_.border))};
    for (int64_t y = 0; y < op_.height; ++y) {
      const math::RowMap map = math::RowMap::make(pass_.map, double(y));
      for (int64_t x = 0; x < op_.width; x += kStripPixels) {
        const int64_t left = op_.width - x, n = left < kStripPixels ? left : kStripPixels;
        E* to = out_ + y * op_.width + x;
        find_nearest_taps(map, box, kind, x, n, strip);
        move_elements(static_cast<const E*>(mask_.data), mask_.row, mask_.column, strip.y[0], strip.x[0], to,
                      n);
        for (int64_t k = 0; k < op_.op_count && ops_[k].kind != 0; ++k) blend(ops_[k], y, x, n, strip, to);
      }
    }
  }

 private:
  void blend(const ImageOp& op, int64_t y, int64_t x, int64_t n, TapStrip& strip, E* to) const {
    const double (&matrix)[9] = reinterpret_cast<const double (&)[9]>(op.a);
    const math::RowMap map = math::RowMap::make(matrix, double(y));
    const math::Canvas canvas{op.a[kBlendWidth], op.a[kBlendHeight], float(op.a[kBlendPower]), false};
    float* share = strip.weight_x;
    if (map.affine) {
      find_coverage<true>(canvas, map, int32_t(x), int32_t(n), share);
    } else {
      find_coverage<false>(canvas, map, int32_t(x), int32_t(n), share);
    }
    const double fill = op.a[kBlendPower] == 0 ? 0 : op_.values[int64_t(op.first)];
    fill_uncovered(share, E(int64_t(fill)), to, n);
  }

  const AugmentMasks& op_;
  const ImageView& mask_;
  const ImagePass& pass_;
  const ImageOp* ops_;
  E* out_;
};

inline void make_mask(const AugmentMasks& op, int64_t i) {
  switch (op.bytes) {
    case 1:
      return MaskRows<uint8_t>(op, i).make();
    case 2:
      return MaskRows<uint16_t>(op, i).make();
    case 4:
      return MaskRows<uint32_t>(op, i).make();
    default:
      return MaskRows<uint64_t>(op, i).make();
  }
}

}  // namespace onepass::ONEPASS_ISA
