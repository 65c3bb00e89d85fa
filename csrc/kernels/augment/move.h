// move.h - samples that are crops and flips of bytes, perhaps padded and normalised: their rows go from the
// image to the output at once. Other rows of the same sample, those with erased pixels, take the usual way.
#pragma once

#include "kernels/augment/workspace.h"
#include "loops/images/move_bytes.h"
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
    image_ = &image;
    pass_ = &pass;
    sample_ = i;
    blend_ = nullptr;
    normalize_ = nullptr;
    ops_ = ops;
    if (!is_move() || (op_.stored != PixelType::kFloat32 && op_.stored != PixelType::kBFloat16)) return false;
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
    fetch(y + kRowsAhead);
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
  static constexpr int64_t kMost = 4;
  static constexpr int64_t kRowsAhead = 4;

  void fetch(int64_t y) const {
    const int64_t row = int64_t(math::clamped(pass_->map[4] * double(y) + pass_->map[5], pass_->top, pass_->bottom - 1));
    const int64_t left = int64_t(pass_->left), right = int64_t(pass_->right), channels = op_.channels;
    if (right - left > 2 * op_.width) return;
    fetch_lines(static_cast<const uint8_t*>(image_->data) + row * image_->row + left * channels, (right - left) * channels);
  }

  // Whether a map moves columns and rows by whole numbers, forwards or backwards.
  static bool moves(const double* m) {
    const auto whole = [](double p) { return p == math::nearest_integer(p) && p < math::kFar && -p < math::kFar; };
    return (m[0] == 1 || m[0] == -1) && (m[4] == 1 || m[4] == -1) && m[1] == 0 && m[3] == 0 && m[6] == 0 && m[7] == 0 &&
           m[8] == 1 && whole(m[2]) && whole(m[5]);
  }
  static bool is_whole(const double* a, int size) {
    return moves(a) && a[size] == math::nearest_integer(a[size]) && a[size + 1] == math::nearest_integer(a[size + 1]);
  }
  bool is_move() const {
    return pass_->kind == double(PassKind::kGather) && pass_->border == 0 && moves(pass_->map) &&
           image_->type == PixelType::kUint8 && image_->is_interleaved() && image_->channels <= kMost;
  }

  // The terms of the formula of each channel, and what covers the canvas' outside. Returns false if one of the
  // 256 values is not finite.
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
    inside(a[0], a[2], 0, a[kBlendWidth] - 1, begin, end);
  }
  // Columns whose positions are within least .. most.
  void inside(double direction, double offset, double least, double most, int64_t& begin, int64_t& end) const {
    const double width = double(op_.width);
    const double first = direction > 0 ? least - offset : offset - most, last = direction > 0 ? most - offset : offset - least;
    begin = int64_t(math::clamped(first, 0, width));
    end = int64_t(math::clamped(last + 1, double(begin), width));
  }

  // Bytes of columns [begin, end) of the row, in order.
  const uint8_t* bytes_of(int64_t y, int64_t begin, int64_t end) const {
    const int64_t channels = op_.channels;
    const double* m = pass_->map;
    const int64_t row = int64_t(math::clamped(m[4] * double(y) + m[5], pass_->top, pass_->bottom - 1));
    const uint8_t* from = static_cast<const uint8_t*>(image_->data) + row * image_->row;
    int64_t first, last;  // columns that are not clamped
    inside(m[0], m[2], pass_->left, pass_->right - 1, first, last);
    first = first > begin ? (first < end ? first : end) : begin;
    last = last < end ? (last > first ? last : first) : end;
    const auto source = [&](int64_t x) {
      return int64_t(math::clamped(m[0] * double(x) + m[2], pass_->left, pass_->right - 1));
    };
    if (m[0] > 0 && first == begin && last == end) return from + source(begin) * channels;
    uint8_t* bytes = reinterpret_cast<uint8_t*>(workspace_.pixels);
    for (int64_t x = begin; x < first; ++x) {
      std::memcpy(bytes + (x - begin) * channels, from + source(x) * channels, size_t(channels));
    }
    if (first < last) {
      uint8_t* to = bytes + (first - begin) * channels;
      if (m[0] > 0) {
        std::memcpy(to, from + source(first) * channels, size_t((last - first) * channels));
      } else {
        with_channels(channels, [&](auto known) {
          turn_pixels<decltype(known)::value>(from + source(last - 1) * channels, to, last - first);
        });
      }
    }
    for (int64_t x = last; x < end; ++x) {
      std::memcpy(bytes + (x - begin) * channels, from + source(x) * channels, size_t(channels));
    }
    return bytes;
  }

  template <class O>
  void store_row(int64_t y, int64_t begin, int64_t end, OpenLine<O>* lines) const {
    O* output = static_cast<O*>(op_.output);
    const int64_t channels = op_.channels, width = op_.width;
    if (end < begin) end = begin;
    const uint8_t* bytes = begin < end ? bytes_of(y, begin, end) : nullptr;
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
  void store(const uint8_t* bytes, int64_t which, int64_t channels, int64_t begin, int64_t end, int64_t n, O* to,
             OpenLine<O>* line) const {
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
  const ImageView* image_ = nullptr;
  const ImagePass* pass_ = nullptr;
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
