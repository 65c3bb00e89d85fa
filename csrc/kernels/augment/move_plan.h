// move_plan.h - what one sample is that is a crop or flip of bytes, perhaps padded, normalised and erased:
// which blocks of a row lie within the image, and the values of those that do not.
#pragma once

#include "kernels/augment/move_terms.h"
#include "kernels/augment/moved_row.h"

namespace onepass::ONEPASS_ISA {

// body(number of channels, whether they go to planes of their own), as types.
template <class Body>
ONEPASS_HD void with_layout(const Augment& op, const Body& body) {
  with_channels(op.channels, [&](auto known) {
    if (op.channels_last || decltype(known)::value == 1) return body(known, std::false_type{});
    body(known, std::true_type{});
  });
}

// What samples have in common.
struct MoveShared {
  ByteOrder forwards, backwards;
  MoveTerms terms;
  bool has_terms = false;

  explicit MoveShared(const Augment& op) {
    if (op.channels > kMovedChannels) return;
    forwards = ByteOrder::make(op.channels, op.channels_last, true);
    backwards = ByteOrder::make(op.channels, op.channels_last, false);
    // The first normalisation there is.
    for (int64_t k = 0; k < op.count * op.pass_count * op.op_count; ++k) {
      if (OpKind(int(op.ops[k].kind)) != OpKind::kNormalize) continue;
      has_terms = terms.make(op, &op.ops[k]);
      return;
    }
    has_terms = terms.make(op, nullptr);
  }
};

class MovePlan {
 public:
  // staged: room for two rows of bytes.
  MovePlan(const Augment& op, const MoveShared& shared, uint8_t* staged)
      : op_(op), shared_(shared), staged_(staged) {}
  static int64_t staged_bytes(int64_t width, int64_t channels) { return (width + 64) * channels; }

  // Returns false if sample i is something else.
  bool begin(int64_t i) {
    const ImagePass* pass = only_pass(i);
    if (!pass || !MovedRows::fits(op_.images[i], *pass)) return false;
    rows_ = MovedRows(op_.images[i], *pass);
    ops_ = op_.ops + (pass - op_.passes) * op_.op_count;
    blend_ = normalize_ = nullptr;
    int64_t k = 0;
    const auto kind = [&] { return k < op_.op_count ? OpKind(int(ops_[k].kind)) : OpKind::kEnd; };
    if (kind() == OpKind::kBlend) blend_ = &ops_[k++];
    if (blend_ && !is_whole(blend_->a, kBlendWidth)) return false;
    if (kind() == OpKind::kNormalize) normalize_ = &ops_[k++];
    for (erases_ = k; kind() == OpKind::kErase; ++k) {
    }
    if (kind() != OpKind::kEnd || !find_terms()) return false;
    find_blocks();
    return true;
  }

  const MoveTerms& terms() const { return *terms_; }
  bool normalizes() const { return normalize_ != nullptr; }
  const float* fill() const { return fill_; }
  const MovedRows& rows() const { return rows_; }
  bool erases() const { return erases_ < op_.op_count && ops_[erases_].kind != 0; }
  bool erases(int64_t y) const {
    for (int64_t k = erases_; k < op_.op_count && ops_[k].kind != 0; ++k) {
      if (double(y) >= ops_[k].a[1] && double(y) < ops_[k].a[3]) return true;
    }
    return false;
  }

  // Whether the canvas covers any of the row; it covers columns [left(), right()) then.
  bool covers(int64_t y) const {
    if (!blend_) return true;
    const double row = blend_->a[4] * double(y) + blend_->a[5];
    return row >= 0 && row < blend_->a[kBlendHeight];
  }
  int64_t left() const { return left_; }
  int64_t right() const { return right_; }

  // The blocks [first, last) of a row that are bytes of the image.
  int64_t first_block(int64_t y) const { return covers(y) || stages_ ? first_block_ : 0; }
  int64_t last_block(int64_t y) const { return covers(y) || stages_ ? last_block_ : 0; }
  BlockSource blocks(int64_t y, int64_t first) {
    const bool forwards = rows_.forwards();
    const int64_t x = first * kBlock, channels = op_.channels;
    const BlockSource from{nullptr, (forwards ? kBlock : -kBlock) * channels,
                           forwards ? &shared_.forwards : &shared_.backwards};
    const uint8_t* bytes;
    if (stages_) {
      bytes = staged_row(y) + (forwards ? x : staged_width() - x - kBlock) * channels;
    } else {
      bytes = rows_.row(y) + rows_.source(forwards ? x : x + kBlock - 1) * channels;
    }
    return {bytes, from.step, from.order};
  }

  // The values of any block of a row, in the order of its vectors.
  void make_block(int64_t y, int64_t block, float* values) {
    if (block >= first_block(y) && block < last_block(y)) return convert_block(blocks(y, block), values);
    const int64_t x = block * kBlock, end = x + kBlock, channels = op_.channels;
    const bool covered = covers(y);
    const int64_t begin_in = covered ? clamped(left_, x, end) : end,
                  end_in = covered ? clamped(right_, begin_in, end) : end;
    if (begin_in < end_in) {
      alignas(64) uint8_t bytes[kBlockMost];
      rows_.copy(y, begin_in, end_in, bytes + (begin_in - x) * channels);
      convert_block({bytes, 0, &shared_.forwards}, values);
    }
    fill_pixels(values, 0, begin_in - x);
    fill_pixels(values, end_in - x, kBlock);
  }

 private:
  void convert_block(const BlockSource& from, float* values) const {
    const BlockTarget<float> to{values, kBlock, 0, false};
    terms_->values.with([&](const auto& formula) {
      with_layout(op_, [&](auto known, auto planes) {
        convert_blocks<decltype(known)::value, decltype(planes)::value>(formula, from, terms_->values.terms,
                                                                        to, 1);
      });
    });
  }

  static int64_t clamped(int64_t x, int64_t least, int64_t most) {
    return x < least ? least : x > most ? most : x;
  }
  static bool is_whole(const double* a, int size) {
    return moves_whole(a) && a[size] == math::nearest_integer(a[size]) &&
           a[size + 1] == math::nearest_integer(a[size + 1]);
  }

  const ImagePass* only_pass(int64_t i) const {
    const ImagePass* only = nullptr;
    for (int64_t p = 0; p < op_.pass_count; ++p) {
      const ImagePass& pass = op_.passes[i * op_.pass_count + p];
      if (pass.kind == 0) continue;
      if (only) return nullptr;
      only = &pass;
    }
    return only;
  }

  bool find_terms() {
    terms_ = &shared_.terms;
    if (!shared_.has_terms || !terms_->matches(op_, normalize_)) {
      if (!own_.make(op_, normalize_)) return false;
      terms_ = &own_;
    }
    for (int64_t c = 0; c < op_.channels; ++c) {
      const bool fills = blend_ && blend_->a[kBlendPower] != 0;
      const float filled = fills ? float(op_.values[int64_t(blend_->first) + c]) : 0;
      fill_[c] = normalize_ ? math::Normalize{terms_->mean[c], terms_->std[c]}(filled) : filled;
      if (!is_finite(fill_[c])) return false;
    }
    return true;
  }

  void find_blocks() {
    left_ = 0, right_ = op_.width;
    if (blend_) {
      const double* a = blend_->a;
      find_columns(a[0], a[2], 0, a[kBlendWidth] - 1, op_.width, left_, right_);
    }
    rows_.find_inside(inside_, inside_end_);
    inside_ = inside_ > left_ ? inside_ : left_;
    inside_end_ = inside_end_ < right_ ? inside_end_ : right_;
    if (right_ < left_) right_ = left_;
    if (inside_end_ < inside_) inside_ = inside_end_ = left_;
    first_block_ = (inside_ + kBlock - 1) / kBlock;
    last_block_ = inside_end_ / kBlock;
    if (last_block_ < first_block_) last_block_ = first_block_ = 0;
    uint8_t fill[kMovedChannels];
    const bool is_whole = inside_ == 0 && inside_end_ == op_.width && op_.width % kBlock == 0;
    stages_ = (!is_whole || blend_) && find_fill(fill);
    if (!stages_) return;
    first_block_ = 0;
    last_block_ = staged_width() / kBlock;
    staged_y_ = -1;
    const int64_t bytes = 2 * staged_bytes(op_.width, op_.channels);
    for (int64_t c = 0; c < op_.channels; ++c) staged_[c] = fill[c];
    for (int64_t n = op_.channels; n < bytes; n *= 2)
      std::memcpy(staged_ + n, staged_, size_t(n < bytes - n ? n : bytes - n));
  }

  // Whether bytes of an image would become the fill.
  bool find_fill(uint8_t (&fill)[kMovedChannels]) const {
    for (int64_t c = 0; c < op_.channels && c < kMovedChannels; ++c) {
      const bool fills = blend_ && blend_->a[kBlendPower] != 0;
      const float filled = fills ? float(op_.values[int64_t(blend_->first) + c]) : 0;
      fill[c] = math::to_byte(filled);
      if (math::of_byte(float(fill[c])) != filled) return false;
    }
    return true;
  }

  int64_t staged_width() const { return (op_.width + kBlock - 1) / kBlock * kBlock; }
  // A row with what is left and right of the image, in the order of the image; another one is all fill.
  const uint8_t* staged_row(int64_t y) {
    if (!covers(y)) return staged_ + staged_bytes(op_.width, op_.channels);
    if (y == staged_y_) return staged_;
    staged_y_ = y;
    const uint8_t* row = rows_.row(y);
    for (int64_t x = left_; x < inside_; ++x) stage(row, x, x + 1);
    if (inside_ < inside_end_) stage(row, inside_, inside_end_);
    for (int64_t x = inside_end_; x < right_; ++x) stage(row, x, x + 1);
    return staged_;
  }
  void stage(const uint8_t* row, int64_t begin, int64_t end) {
    const int64_t channels = op_.channels, at = rows_.forwards() ? begin : staged_width() - end;
    std::memcpy(staged_ + at * channels, row + rows_.source(rows_.forwards() ? begin : end - 1) * channels,
                size_t((end - begin) * channels));
  }

  // Pixels [begin, end) of a block.
  void fill_pixels(float* values, int64_t begin, int64_t end) const {
    const int64_t channels = op_.channels;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t k = begin; k < end; ++k)
        values[op_.channels_last ? k * channels + c : c * kBlock + k] = fill_[c];
    }
  }

  const Augment& op_;
  const MoveShared& shared_;
  uint8_t* staged_;
  bool stages_ = false;
  MovedRows rows_;
  const ImageOp *ops_ = nullptr, *blend_ = nullptr, *normalize_ = nullptr;
  const MoveTerms* terms_ = nullptr;
  MoveTerms own_;
  int64_t staged_y_ = -1, inside_ = 0, inside_end_ = 0;
  int64_t erases_ = 0, left_ = 0, right_ = 0, first_block_ = 0, last_block_ = 0;
  float fill_[kMovedChannels];
};

}  // namespace onepass::ONEPASS_ISA
