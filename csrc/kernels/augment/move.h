// move.h - samples that are crops and flips of bytes, perhaps padded, normalised and mixed: their rows go
// from the images to the output at once. Other rows of the same sample, those with erased pixels, take the
// usual way.
#pragma once

#include "kernels/augment/move_plan.h"
#include "kernels/augment/workspace.h"
#include "loops/common/nontemporal.h"

namespace onepass::ONEPASS_ISA {

class Move {
 public:
  Move(const Augment& op, const MoveShared& shared, const Workspace& workspace)
      : op_(op), workspace_(workspace), own_(op, shared, staged(0)), other_(op, shared, staged(2)) {
    const int64_t size = size_of(op.stored), row = op.width * (op.channels_last ? op.channels : 1) * size;
    nontemporal_ = op.count * op.channels * op.height * op.width * size >= kNontemporalLeast;
    blocks_ = (op.width + kBlock - 1) / kBlock;
    const bool lines = row % kLine == 0 && reinterpret_cast<uintptr_t>(op.output) % kLine == 0;
    direct_ = op.width % kBlock == 0 && (lines || !nontemporal_);
  }

  // Decides whether sample i, which is not mixed, is one.
  bool begin(int64_t i) {
    sample_ = i;
    if (!own_.begin(i)) return false;
    if (op_.stored == PixelType::kUint8) return !own_.normalizes();
    return op_.stored == PixelType::kFloat32 || op_.stored == PixelType::kBFloat16;
  }

  // The same of sample i that is mixed with another.
  bool begin_mixed(int64_t i) {
    if (op_.stored == PixelType::kUint8 || !begin(i) || own_.erases()) return false;
    if (!other_.begin(int64_t(op_.samples[i].partner)) || other_.erases()) return false;
    // Terms of their own are equal to none.
    return &own_.terms() == &other_.terms();
  }

  // Returns false for a row that must take the usual way.
  bool row(int64_t y) {
    if (own_.erases(y)) {
      end();
      return false;
    }
    own_.rows().fetch(y + kRowsAhead);
    if (op_.stored == PixelType::kUint8) {
      store_bytes(y);
    } else if (op_.stored == PixelType::kFloat32) {
      const BlockTarget<float> to = target<float>(y);
      put(own_, y, 0, blocks_, to);
      flush(y, floats_);
    } else {
      const BlockTarget<BFloat16> to = target<BFloat16>(y);
      put(own_, y, 0, blocks_, to);
      flush(y, halves_);
    }
    return true;
  }

  // Stores what is left of open lines: after the last row, and before a row that takes the usual way.
  void end() {
    for (OpenLine<float>& line : floats_) line.close();
    for (OpenLine<BFloat16>& line : halves_) line.close();
  }

  // All rows of the mixed sample that was begun.
  void run_mixed() {
    for (int64_t y = 0; y < op_.height; ++y) {
      own_.rows().fetch(y + kRowsAhead);
      other_.rows().fetch(y + kRowsAhead);
      if (op_.stored == PixelType::kFloat32) {
        mix_row(y, floats_);
      } else {
        mix_row(y, halves_);
      }
    }
    end();
  }

 private:
  static constexpr int64_t kRowsAhead = 4;

  // Where the first block of the row is put: its place in the output, or a buffer.
  template <class O>
  BlockTarget<O> target(int64_t y) const {
    const int64_t channels = op_.channels, width = op_.width, height = op_.height;
    const bool last = op_.channels_last;
    const int64_t block = last ? channels * kBlock : kBlock;
    if (!direct_) return {buffer<O>(), last ? kBlock : pitch(), block, false};
    const int64_t at =
        last ? (sample_ * height + y) * width * channels : (sample_ * channels * height + y) * width;
    return {static_cast<O*>(op_.output) + at, last ? kBlock : height * width, block, nontemporal_};
  }
  template <class O>
  O* buffer() const {
    return reinterpret_cast<O*>(workspace_.moved);
  }
  // The bytes behind the buffer.
  uint8_t* staged(int64_t rows) const {
    return reinterpret_cast<uint8_t*>(workspace_.moved) +
           (4 + rows) * MovePlan::staged_bytes(op_.width, op_.channels);
  }
  int64_t pitch() const { return blocks_ * kBlock; }

  // From the buffer to the output.
  template <class O>
  void flush(int64_t y, OpenLine<O>* lines) const {
    if (direct_) return;
    const bool last = op_.channels_last;
    const int64_t planes = last ? 1 : op_.channels, n = op_.width * (last ? op_.channels : 1);
    for (int64_t c = 0; c < planes; ++c) {
      O* to = static_cast<O*>(op_.output) + ((sample_ * planes + c) * op_.height + y) * n;
      put_elements(buffer<O>() + c * pitch(), n, to, lines[c]);
    }
  }
  template <class O>
  void put_elements(const O* from, int64_t n, O* to, OpenLine<O>& line) const {
    if (!nontemporal_) {
      std::memcpy(to, from, size_t(n) * sizeof(O));
      return;
    }
    split_at_lines(
        line, to, n,
        [&](int64_t begin, int64_t end, O* at) {
          std::memcpy(at, from + begin, size_t(end - begin) * sizeof(O));
        },
        [&](int64_t begin, int64_t end) {
          copy_lines_nontemporal(to + begin, from + begin, (end - begin) * int64_t(sizeof(O)));
        });
  }

  static int64_t within(int64_t x, int64_t least, int64_t most) {
    return x < least ? least : x > most ? most : x;
  }
  const MoveFormula& formula_of(const MovePlan& plan, float) const { return plan.terms().values; }
  const MoveFormula& formula_of(const MovePlan& plan, BFloat16) const { return plan.terms().halves; }

  // Blocks [begin, end) of a sample's row.
  template <class O>
  void put(MovePlan& plan, int64_t y, int64_t begin, int64_t end, const BlockTarget<O>& to) {
    const int64_t first = within(plan.first_block(y), begin, end),
                  last = within(plan.last_block(y), first, end);
    const auto put_edge = [&](int64_t block) {
      alignas(64) float values[kBlockMost];
      plan.make_block(y, block, values);
      put_block(values, op_.channels, to.from(block));
    };
    for (int64_t block = begin; block < first; ++block) put_edge(block);
    if (first < last) {
      const MoveFormula& made = formula_of(plan, O{});
      const BlockSource from = plan.blocks(y, first);
      made.with([&](const auto& formula) {
        with_layout(op_, [&](auto known, auto planes) {
          convert_blocks<decltype(known)::value, decltype(planes)::value>(formula, from, made.terms,
                                                                          to.from(first), last - first);
        });
      });
    }
    for (int64_t block = last; block < end; ++block) put_edge(block);
  }

  template <class O>
  void mix_row(int64_t y, OpenLine<O>* lines) {
    const BlockTarget<O> to = target<O>(y);
    if (Mixing(int(op_.samples[sample_].mixing)) == Mixing::kMixup) {
      mix(y, to);
    } else {
      cut(y, to);
    }
    flush(y, lines);
  }

  template <class O>
  void mix(int64_t y, const BlockTarget<O>& to) {
    const math::Mixup mixup = math::Mixup::make(op_.samples[sample_].lam);
    const int64_t a = own_.first_block(y), b = other_.first_block(y), c = own_.last_block(y),
                  d = other_.last_block(y);
    const int64_t first = a > b ? a : b, last = within(c < d ? c : d, first, blocks_);
    const auto mix_edge = [&](int64_t block) {
      alignas(64) float values[kBlockMost], others[kBlockMost];
      own_.make_block(y, block, values);
      other_.make_block(y, block, others);
      map_planes(mixup, values, others, op_.channels * kBlock);
      put_block(values, op_.channels, to.from(block));
    };
    for (int64_t block = 0; block < first; ++block) mix_edge(block);
    if (first < last) {
      const MoveFormula& made = own_.terms().values;
      const BlockSource own = own_.blocks(y, first), other = other_.blocks(y, first);
      made.with([&](const auto& formula) {
        with_layout(op_, [&](auto known, auto planes) {
          mix_blocks<decltype(known)::value, decltype(planes)::value>(formula, own, other, mixup, made.terms,
                                                                      to.from(first), last - first);
        });
      });
    }
    for (int64_t block = last; block < blocks_; ++block) mix_edge(block);
  }

  // The partner's pixels in the box.
  template <class O>
  void cut(int64_t y, const BlockTarget<O>& to) {
    const ImageSample& sample = op_.samples[sample_];
    const int64_t left = int64_t(sample.left), right = int64_t(sample.right);
    if (double(y) < sample.top || double(y) >= sample.bottom || left >= right)
      return put(own_, y, 0, blocks_, to);
    const auto put_edge = [&](int64_t block) {
      alignas(64) float values[kBlockMost], others[kBlockMost];
      own_.make_block(y, block, values);
      other_.make_block(y, block, others);
      const int64_t channels = op_.channels;
      for (int64_t k = 0; k < channels * kBlock; ++k) {
        const int64_t x = block * kBlock + (op_.channels_last ? k / channels : k % kBlock);
        if (x >= left && x < right) values[k] = others[k];
      }
      put_block(values, channels, to.from(block));
    };
    const auto up = [](int64_t x) { return (x + kBlock - 1) / kBlock; };
    const int64_t begin = up(left), end = right / kBlock;
    put(own_, y, 0, left / kBlock, to);
    for (int64_t block = left / kBlock; block < begin; ++block) put_edge(block);
    if (begin < end) put(other_, y, begin, end, to);
    for (int64_t block = begin > end ? begin : end; block < up(right); ++block) put_edge(block);
    put(own_, y, up(right), blocks_, to);
  }

  // Bytes that stay bytes.
  void store_bytes(int64_t y) const {
    const int64_t channels = op_.channels, width = op_.width;
    uint8_t* bytes = reinterpret_cast<uint8_t*>(workspace_.pixels);
    const int64_t left = own_.covers(y) ? own_.left() : width, right = own_.covers(y) ? own_.right() : width;
    fill_bytes(0, left, bytes);
    const uint8_t* from = bytes;
    if (left < right) {
      from = own_.rows().bytes(y, left, right, bytes + left * channels);
      const bool whole = left == 0 && right == width;
      if (!whole && from != bytes + left * channels)
        std::memcpy(bytes + left * channels, from, size_t((right - left) * channels));
      if (!whole) from = bytes;
    }
    fill_bytes(right > left ? right : left, width, bytes);
    uint8_t* output = static_cast<uint8_t*>(op_.output);
    if (op_.channels_last || channels == 1) {
      std::memcpy(output + (sample_ * op_.height + y) * width * channels, from, size_t(width * channels));
      return;
    }
    uint8_t* to = output + (sample_ * channels * op_.height + y) * width;
    with_channels(channels, [&](auto known) {
      take_apart<decltype(known)::value>(from, to, op_.height * width, width);
    });
  }
  void fill_bytes(int64_t begin, int64_t end, uint8_t* bytes) const {
    for (int64_t x = begin; x < end; ++x) {
      for (int64_t c = 0; c < op_.channels; ++c) bytes[x * op_.channels + c] = math::to_byte(own_.fill()[c]);
    }
  }

  const Augment& op_;
  const Workspace& workspace_;
  MovePlan own_, other_;
  int64_t sample_ = 0, blocks_ = 0;
  bool nontemporal_ = false, direct_ = false;
  OpenLine<float> floats_[kMovedChannels];
  OpenLine<BFloat16> halves_[kMovedChannels];
};

}  // namespace onepass::ONEPASS_ISA
