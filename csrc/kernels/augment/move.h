// move.h - samples that are crops and flips of bytes, perhaps padded and normalised: their rows go from the
// image to the output at once. Other rows of the same sample, those with erased pixels, take the usual way.
#pragma once

#include "kernels/augment/moved_row.h"
#include "kernels/augment/workspace.h"
#include "math/color.h"

namespace onepass::ONEPASS_ISA {

class Move {
 public:
  // Decides whether sample i is one, which has one pass and is not mixed.
  Move(const Augment& op, const Workspace& workspace) : op_(op), workspace_(workspace) {
    const int64_t elements = op.count * op.channels * op.height * op.width;
    nontemporal_ = elements * size_of(op.stored) >= kNontemporalLeast;
  }

  bool begin(int64_t i, const ImageView& image, const ImagePass& pass, const ImageOp* ops) {
    rows_ = MovedRows(image, pass);
    sample_ = i;
    blend_ = nullptr;
    normalize_ = nullptr;
    ops_ = ops;
    if (!MovedRows::fits(image, pass) ||
        (op_.stored != PixelType::kFloat32 && op_.stored != PixelType::kBFloat16))
      return false;
    int64_t k = 0;
    const auto kind = [&] { return k < op_.op_count ? OpKind(int(ops[k].kind)) : OpKind::kEnd; };
    if (kind() == OpKind::kBlend) blend_ = &ops[k++];
    if (blend_ && !is_whole(blend_->a, kBlendWidth)) return false;
    if (kind() == OpKind::kNormalize) normalize_ = &ops[k++];
    for (erases_ = k; kind() == OpKind::kErase; ++k) {
    }
    return kind() == OpKind::kEnd && set_terms();
  }

  // Returns false for a row that must take the usual way.
  bool row(int64_t y) {
    for (int64_t k = erases_; k < op_.op_count && ops_[k].kind != 0; ++k) {
      if (double(y) >= ops_[k].a[1] && double(y) < ops_[k].a[3]) {
        end();
        return false;
      }
    }
    rows_.fetch(y + kRowsAhead);
    int64_t begin = 0, end = op_.width;
    if (blend_) cover(y, begin, end);
    if (op_.stored == PixelType::kFloat32) {
      store_row(y, begin, end, floats_);
    } else {
      store_row(y, begin, end, halves_);
    }
    return true;
  }

  // Stores what is left of open lines: after the last row, and before a row that takes the usual way.
  void end() {
    for (OpenLine<float>& line : floats_) line.close();
    for (OpenLine<BFloat16>& line : halves_) line.close();
  }

 private:
  static constexpr int64_t kMost = MovedRows::kMostChannels;
  static constexpr int64_t kRowsAhead = 4;

  static bool is_whole(const double* a, int size) {
    return moves_whole(a) && a[size] == math::nearest_integer(a[size]) &&
           a[size + 1] == math::nearest_integer(a[size + 1]);
  }

  // The terms of the formula of each channel, and what covers the canvas' outside. Returns false if one of
  // the 256 values is not finite.
  bool set_terms() {
    exact_ = ONEPASS_FUSES != 0;
    const int64_t channels = op_.channels;
    for (int64_t c = 0; c < channels; ++c) {
      mean_[c] = normalize_ ? value(*normalize_, c) : 0;
      std_[c] = normalize_ ? value(*normalize_, channels + c) : 1;
      if (normalize_ && !try_channel(mean_[c], std_[c])) return false;
      const float filled = blend_ && blend_->a[kBlendPower] != 0 ? value(*blend_, c) : 0;
      fill_[c] = normalize_ ? math::Normalize{mean_[c], std_[c]}(filled) : filled;
      if (!is_finite(fill_[c])) return false;
    }
    const bool last = op_.channels_last;
    for (int64_t c = 0; c < channels; ++c) {
      Pattern& pattern = patterns_[last ? 0 : c];
      const int64_t period = last ? channels : 1, channel = last ? c : 0;
      pattern.set(0, period, channel, mean_[c]);
      pattern.set(1, period, channel, exact_ ? math::ByteProduct::high(std_[c]) : std_[c]);
      pattern.set(2, period, channel, exact_ ? math::ByteProduct::low(std_[c]) : 0);
      for (int64_t k = channel; k < 2 * kPatternPeriod; k += period) fills_[last ? 0 : c][k] = fill_[c];
    }
    return true;
  }
  float value(const ImageOp& op, int64_t k) const { return float(op_.values[int64_t(op.first) + k]); }

  // Whether all values are finite; whether products give the same bits.
  bool try_channel(float mean, float std) {
    const float high = math::ByteProduct::high(std), low = math::ByteProduct::low(std);
    int32_t wrong = 0, bad = 0;
    ONEPASS_INDEPENDENT
    for (int32_t raw = 0; raw < 256; ++raw) {
      const float wanted = math::ByteDivided{}(float(raw), mean, std, 0.0f);
      bad += is_finite(wanted) ? 0 : 1;
      if (ONEPASS_FUSES) wrong += math::ByteProduct{}(float(raw), mean, high, low) == wanted ? 0 : 1;
    }
    exact_ = exact_ && wrong == 0;
    return bad == 0;
  }

  // The columns of the row that the canvas covers.
  void cover(int64_t y, int64_t& begin, int64_t& end) const {
    const double* a = blend_->a;
    const double row = a[4] * double(y) + a[5];
    if (row < 0 || row >= a[kBlendHeight]) {
      end = 0;
      return;
    }
    find_columns(a[0], a[2], 0, a[kBlendWidth] - 1, op_.width, begin, end);
  }
  template <class O>
  void store_row(int64_t y, int64_t begin, int64_t end, OpenLine<O>* lines) const {
    O* output = static_cast<O*>(op_.output);
    const int64_t channels = op_.channels, width = op_.width;
    if (end < begin) end = begin;
    uint8_t* buffer = reinterpret_cast<uint8_t*>(workspace_.pixels);
    const uint8_t* bytes = begin < end ? rows_.bytes(y, begin, end, buffer) : nullptr;
    if (op_.channels_last) {
      O* to = output + (sample_ * op_.height + y) * width * channels;
      return store(bytes, 0, channels, begin * channels, end * channels, width * channels, to, lines);
    }
    if (bytes && channels > 1) bytes = planes_of(bytes, end - begin);
    for (int64_t c = 0; c < channels; ++c) {
      O* to = output + ((sample_ * channels + c) * op_.height + y) * width;
      store(bytes ? bytes + c * pitch() : nullptr, c, 1, begin, end, width, to, lines + c);
    }
  }
  int64_t pitch() const { return op_.width + 64; }
  const uint8_t* planes_of(const uint8_t* bytes, int64_t n) const {
    uint8_t* planes = reinterpret_cast<uint8_t*>(workspace_.narrow);
    with_channels(op_.channels,
                  [&](auto known) { take_apart<decltype(known)::value>(bytes, planes, pitch(), n); });
    return planes;
  }
  template <class O>
  void store(const uint8_t* bytes, int64_t which, int64_t channels, int64_t begin, int64_t end, int64_t n,
             O* to, OpenLine<O>* line) const {
    const auto put = [&](const auto& formula) {
      using F = std::decay_t<decltype(formula)>;
      const ByteRow<F, O> row{formula, bytes, patterns_[which], fills_[which], channels, begin, end, n};
      if (!nontemporal_) return row.put(0, n, to);
      row.store(to, *line);
    };
    if (!normalize_) return put(math::ByteOnly{});
    if (exact_) return put(math::ByteProduct{});
    put(math::ByteDivided{});
  }

  const Augment& op_;
  const Workspace& workspace_;
  MovedRows rows_;
  const ImageOp *ops_ = nullptr, *blend_ = nullptr, *normalize_ = nullptr;
  int64_t sample_ = 0, erases_ = 0;
  bool exact_ = false, nontemporal_ = false;
  float mean_[kMost], std_[kMost], fill_[kMost];
  Pattern patterns_[kMost];
  float fills_[kMost][2 * kPatternPeriod];
  OpenLine<float> floats_[kMost];
  OpenLine<BFloat16> halves_[kMost];
};

}  // namespace onepass::ONEPASS_ISA
