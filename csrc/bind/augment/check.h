// check.h - the records of augment before they are carried out: a wrong one would read or write outside of
// images. What the numbers mean to a user is checked in Python.
#pragma once

#include "core/check.h"
#include "kernels/augment/augment.h"

namespace onepass {

class RecordCheck {
 public:
  RecordCheck(const char* function, int64_t height, int64_t width, int64_t channels, int64_t values)
      : function_(function), height_(height), width_(width), channels_(channels), values_(values) {}

  void sample(const ImageSample& sample, int64_t i, int64_t count) const {
    if (sample.mixing == 0) return;
    whole("samples", i, "mixing", sample.mixing, 0, 2);
    whole("samples", i, "partner", sample.partner, 0, double(count - 1));
    if (Mixing(int(sample.mixing)) != Mixing::kCutmix) return;
    whole("samples", i, "left", sample.left, 0, double(width_));
    whole("samples", i, "right", sample.right, 0, double(width_));
    whole("samples", i, "top", sample.top, 0, double(height_));
    whole("samples", i, "bottom", sample.bottom, 0, double(height_));
  }

  // The passes of sample i, whose image is height x width.
  void passes(const ImagePass* passes, int64_t count, int64_t i, int64_t height, int64_t width) const {
    bool any = false;
    for (int64_t p = 0; p < count; ++p) {
      const ImagePass& pass = passes[p];
      whole("passes", i, "kind", pass.kind, 0, 2);
      if (pass.kind == 0) continue;
      any = true;
      whole("passes", i, "left", pass.left, 0, double(width - 1));
      whole("passes", i, "top", pass.top, 0, double(height - 1));
      whole("passes", i, "right", pass.right, pass.left + 1, double(width));
      whole("passes", i, "bottom", pass.bottom, pass.top + 1, double(height));
      whole("passes", i, "interpolation", pass.interpolation, 0, 3);
      whole("passes", i, "border", pass.border, 0, 2);
      constexpr double kMost = 1 << 24;
      whole("passes", i, "height", pass.height, 1, kMost);
      whole("passes", i, "width", pass.width, 1, kMost);
      check_map(pass, i);
      height = int64_t(pass.height);
      width = int64_t(pass.width);
    }
    OP_CHECK(any, ValueError, function_, ": passes of sample ", i, " must hold a pass, got none");
    OP_CHECK(height == height_ && width == width_, ValueError, function_, ": passes of sample ", i,
             " must end with the output's ", height_, " x ", width_, ", got ", height, " x ", width);
  }

  void ops(const ImageOp* ops, int64_t count, int64_t i) const {
    for (int64_t k = 0; k < count && ops[k].kind != 0; ++k) {
      whole("ops", i, "kind", ops[k].kind, 0, double(int(OpKind::kClamp)));
      check_op(ops[k], OpKind(int(ops[k].kind)), i);
    }
  }

 private:
  void check_map(const ImagePass& pass, int64_t i) const {
    for (const double entry : pass.map) {
      OP_CHECK(entry - entry == 0, ValueError, function_, ": passes.map of sample ", i,
               " must be finite, got ", entry);
    }
    const bool resizes = PassKind(int(pass.kind)) == PassKind::kResize;
    OP_CHECK(resizes || Interpolation(int(pass.interpolation)) != Interpolation::kBicubic, ValueError,
             function_, ": passes.interpolation of sample ", i, " must be 0, 1 or 2 for a gather, got 3");
    if (!resizes) return;
    const double (&m)[9] = pass.map;
    OP_CHECK(m[1] == 0 && m[3] == 0 && m[6] == 0 && m[7] == 0 && m[8] == 1, ValueError, function_,
             ": passes.map of sample ", i,
             " must be diagonal for a resize, got other entries than 0 beside it");
    constexpr double kMost = 1 << 20;
    OP_CHECK(m[0] < kMost && -m[0] < kMost && m[4] < kMost && -m[4] < kMost, ValueError, function_,
             ": passes.map of sample ", i, " must reduce less than ", int64_t(kMost), " times, got ", m[0],
             " and ", m[4]);
  }

  void check_op(const ImageOp& op, OpKind kind, int64_t i) const {
    const int64_t needed = kind == OpKind::kNormalize                         ? 2 * channels_
                           : kind == OpKind::kBlend || kind == OpKind::kErase ? channels_
                                                                              : 0;
    if (needed > 0) whole("ops", i, "first", op.first, 0, double(values_ - needed));
    if (kind == OpKind::kContrast || kind == OpKind::kAutocontrast || kind == OpKind::kEqualize ||
        kind == OpKind::kSharpness || kind == OpKind::kSaturation || kind == OpKind::kHue ||
        kind == OpKind::kGrayscale) {
      OP_CHECK(channels_ == 3 || channels_ == 1, ValueError, function_,
               ": images must have 1 or 3 channels for op ", int(kind), " of sample ", i, ", got ",
               channels_);
    }
    if (kind != OpKind::kErase) return;
    whole("ops", i, "a[4]", op.a[kEraseMode], 0, 1);
    constexpr double kMost = 1 << 24;
    for (int k = 0; k < 4; ++k) whole("ops", i, "a", op.a[k], 0, kMost);
    if (op.a[kEraseMode] == 0) return;
    for (int k = 0; k < 6; ++k) whole("ops", i, "a", op.a[kEraseKey + k], 0, 4294967295.0);
  }

  void whole(const char* list, int64_t i, const char* field, double value, double least, double most) const {
    const bool is_whole = value >= least && value <= most && double(int64_t(value)) == value;
    OP_CHECK(is_whole, ValueError, function_, ": ", list, ".", field, " of sample ", i,
             " must be a whole number from ", least, " to ", most, ", got ", value);
  }

  const char* function_;
  int64_t height_, width_, channels_, values_;
};

}  // namespace onepass
