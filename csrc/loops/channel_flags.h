// channel_flags.h - which elements of a row pass: those that a bit mask lets through and a dropout keeps, on
// the CPU.
#pragma once

#include "loops/channel_rows.h"

namespace onepass::ONEPASS_ISA {

struct Passing {
  const uint8_t* mask = nullptr;  // bits in the order of memory; nullptr: all pass
  bool drops = false;
  math::Dropout dropout{};

  bool asks() const { return mask || drops; }
  double scale() const { return drops ? dropout.scale : 1; }
};

inline void combine_flags(uint8_t* flags, const uint8_t* others, int64_t n) {
  for (int64_t i = 0; i < n; ++i) flags[i] &= others[i];
}

// Of n elements, at most kChannelRow, that follow each other in memory from `begin` on and in logical order
// from `first` on.
inline void fill_flags(const Passing& passing, int64_t begin, int64_t first, int64_t n, uint8_t* flags) {
  if (passing.drops) draw_row(passing.dropout, first, n, flags);
  if (!passing.mask) return;
  if (!passing.drops) return unpack_bits(passing.mask, begin, n, flags);
  uint8_t bits[kChannelRow];
  unpack_bits(passing.mask, begin, n, bits);
  combine_flags(flags, bits, n);
}

// Channels last: flags[k * width + i] is row `row` + k of channel `channel` + i. width: at most kChannelRow.
inline void fill_flags_last(const Passing& passing, const ChannelShape& shape, int64_t row, int64_t rows,
                            int64_t channel, int64_t width, uint8_t* flags) {
  if (!passing.drops || shape.positions == 1) {
    for (int64_t k = 0; k < rows; ++k) {
      const int64_t begin = (row + k) * shape.channels + channel;
      fill_flags(passing, begin, begin, width, flags + k * width);
    }
    return;
  }
  BlockDraws draws(passing.dropout, width);
  for (int64_t k = 0; k < rows;) {
    const int64_t left = shape.positions - (row + k) % shape.positions;
    const int64_t n = left < rows - k ? left : rows - k;
    for (int64_t i = 0; i < width; ++i) {
      draws.add(shape.logical_index(row + k, channel + i), n, flags + k * width + i);
    }
    k += n;
  }
  draws.flush();
  if (!passing.mask) return;
  uint8_t bits[kChannelRow];
  for (int64_t k = 0; k < rows; ++k) {
    unpack_bits(passing.mask, (row + k) * shape.channels + channel, width, bits);
    combine_flags(flags + k * width, bits, width);
  }
}

}  // namespace onepass::ONEPASS_ISA
