// finish.h - the last steps of a sample's pixels, strip by strip: kept for the sample after, mixed with those
// of the sample before, stored.
#pragma once

#include "kernels/augment/workspace.h"
#include "loops/common/nontemporal.h"
#include "loops/images/interleave.h"
#include "math/augment.h"
#include "math/color.h"

namespace onepass::ONEPASS_ISA {

struct ToByte {
  ONEPASS_HD uint8_t operator()(float v) const { return math::to_byte(v); }
};

class Finish {
 public:
  Finish(const Augment& op, const Workspace& workspace) : op_(op), workspace_(workspace) {
    const int64_t elements = op.count * op.channels * op.height * op.width;
    nontemporal_ = elements * size_of(op.stored) >= kNontemporalLeast;
  }

  // What becomes of the pixels of sample i. keep, or nullptr: where they are kept; partner, or nullptr: where
  // those of its partner were kept; stores: whether they are stored at all.
  void begin(int64_t i, float* keep, const float* partner, bool stores) {
    sample_ = i;
    keep_ = {keep, op_.height, op_.width, op_.channels};
    partner_ = {const_cast<float*>(partner), op_.height, op_.width, op_.channels};
    stores_ = stores;
  }

  // n pixels of row y from column x on; v may be overwritten.
  void finish(int64_t y, int64_t x, int64_t n, const Planes& v) const {
    if (keep_.data) copy(v, n, keep_.at(y, x));
    if (!stores_) return;
    if (partner_.data) mix(y, x, n, v);
    store(y, x, n, v);
  }

 private:
  void copy(const Planes& from, int64_t n, const Planes& to) const {
    for (int64_t c = 0; c < op_.channels; ++c) std::memcpy(to[c], from[c], size_t(n) * sizeof(float));
  }

  void mix(int64_t y, int64_t x, int64_t n, const Planes& v) const {
    const ImageSample& sample = op_.samples[sample_];
    const Planes other = partner_.at(y, x);
    if (Mixing(int(sample.mixing)) == Mixing::kMixup) {
      for (int64_t c = 0; c < op_.channels; ++c) map_planes(math::Mixup::make(sample.lam), v[c], other[c], n);
      return;
    }
    const int64_t left = int64_t(sample.left), right = int64_t(sample.right);
    const int64_t begin = left > x ? left - x : 0, end = right < x + n ? right - x : n;
    if (double(y) < sample.top || double(y) >= sample.bottom || begin >= end) return;
    for (int64_t c = 0; c < op_.channels; ++c) {
      std::memcpy(v[c] + begin, other[c] + begin, size_t(end - begin) * sizeof(float));
    }
  }

  void store(int64_t y, int64_t x, int64_t n, const Planes& v) const {
    if (op_.channels_last) {
      const int64_t at = ((sample_ * op_.height + y) * op_.width + x) * op_.channels;
      float* lines = static_cast<float*>(op_.output) + at;
      if (kInterleavesLines && nontemporal_ && op_.stored == PixelType::kFloat32 && op_.channels == 3 &&
          n % kLinePixels == 0 && reinterpret_cast<uintptr_t>(lines) % kLine == 0)
        return interleave_lines(v, lines, n);
      interleave(v, op_.channels, workspace_.pixels, n);
      store_run(at, workspace_.pixels, n * op_.channels);
      return;
    }
    for (int64_t c = 0; c < op_.channels; ++c) {
      store_run(((sample_ * op_.channels + c) * op_.height + y) * op_.width + x, v[c], n);
    }
  }

  // Elements that follow each other.
  void store_run(int64_t begin, const float* from, int64_t n) const {
    char* to = static_cast<char*>(op_.output) + begin * size_of(op_.stored);
    if (!nontemporal_) return narrow_elements(op_.stored, ToByte{}, from, to, n);
    const void* narrow = from;
    if (op_.stored != PixelType::kFloat32) {
      narrow_elements(op_.stored, ToByte{}, from, workspace_.narrow, n);
      narrow = workspace_.narrow;
    }
    copy_nontemporal(to, narrow, n * size_of(op_.stored));
  }

  const Augment& op_;
  const Workspace& workspace_;
  bool nontemporal_ = false, stores_ = false;
  int64_t sample_ = 0;
  FloatImage keep_, partner_;
};

}  // namespace onepass::ONEPASS_ISA
