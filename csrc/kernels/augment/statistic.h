// statistic.h - operations that depend on all pixels of the image: what they need is gathered while the image
// is written to scratch memory, and they are carried out while it is read again.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/augment/workspace.h"
#include "loops/images/statistics.h"
#include "math/color.h"

namespace onepass::ONEPASS_ISA {

struct GreyOf {
  ONEPASS_HD float operator()(math::Rgb v) const { return math::grey_of(v); }
};

struct EqualizeBin {
  ONEPASS_HD int32_t operator()(float v) const { return math::equalize_bin(v); }
};

constexpr int64_t kBins = 256;

// The statistic of one operation. Channels are those of torchvision's operations: three, or one.
class Statistic {
 public:
  static constexpr int64_t kMostChannels = 4;

  void begin(const ImageOp& op, int64_t channels, int64_t pixels) {
    kind_ = OpKind(int(op.kind));
    factor_ = op.a[0];
    channels_ = channels;
    pixels_ = pixels;
    sum_ = {};
    for (Extremes& extremes : extremes_) extremes = {INFINITY, -INFINITY};
    if (kind_ == OpKind::kEqualize) std::memset(counts_, 0, sizeof counts_);
  }

  void add(const Planes& v, int64_t n, float* grey) {
    if (kind_ == OpKind::kContrast) {
      if (channels_ == 3) reduce_pixels<math::Rgb>(GreyOf{}, v[0], v[1], v[2], grey, n);
      return add_to_row(channels_ == 3 ? grey : v[0], n, sum_);
    }
    for (int64_t c = 0; c < channels_; ++c) {
      if (kind_ == OpKind::kAutocontrast) widen_extremes(v[c], n, extremes_[c]);
      if (kind_ == OpKind::kEqualize) count_bins(EqualizeBin{}, v[c], n, counts_[c]);
    }
  }
  void end_row() {
    if (kind_ == OpKind::kContrast) sum_.end_row();
  }

  // The whole image was added.
  void finish() {
    if (kind_ != OpKind::kEqualize) return;
    for (int64_t c = 0; c < channels_; ++c) make_table(counts_[c], tables_[c]);
  }

  void apply(const Planes& v, int64_t n) const {
    for (int64_t c = 0; c < channels_; ++c) {
      if (kind_ == OpKind::kContrast) {
        map_plane(math::Contrast::make(factor_, sum_.total / double(pixels_)), v[c], n);
      } else if (kind_ == OpKind::kAutocontrast) {
        map_plane(math::Autocontrast::make(extremes_[c].least, extremes_[c].most), v[c], n);
      } else if (kind_ == OpKind::kEqualize) {
        look_up(EqualizeBin{}, tables_[c], v[c], n);
      }
    }
  }

 private:
  void make_table(const int32_t* counts, float* table) const {
    int64_t last = 0;
    for (int64_t bin = 0; bin < kBins; ++bin) last = counts[bin] ? bin : last;
    const int64_t step = math::equalize_step(pixels_, counts[last]);
    int64_t before = 0;
    for (int64_t bin = 0; bin < kBins; ++bin) {
      table[bin] = math::equalized(int32_t(bin), before, step);
      before += counts[bin];
    }
  }

  OpKind kind_ = OpKind::kEnd;
  double factor_ = 0;
  int64_t channels_ = 0, pixels_ = 0;
  RowSum sum_;
  Extremes extremes_[kMostChannels];
  int32_t counts_[kMostChannels][kBins];
  float tables_[kMostChannels][kBins];
};

}  // namespace onepass::ONEPASS_ISA
