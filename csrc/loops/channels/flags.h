// flags.h - which elements of a strip pass, as flags: those that a bit mask lets through and a dropout keeps,
// on the CPU. CUDA: flags.cuh.
#pragma once

#include "loops/channels/shape.h"
#include "loops/common/strips.h"
#include "loops/draws/kept.h"

namespace onepass::ONEPASS_ISA {

struct PassFlags {
  const uint8_t* mask = nullptr;  // bits in the order of memory; nullptr: all pass
  bool drops = false;
  math::Dropout dropout{};

  bool asks() const { return mask || drops; }
  double scale() const { return drops ? dropout.scale : 1; }
};

inline void and_bits(const uint8_t* mask, int64_t begin, int64_t n, uint8_t* flags) {
  uint8_t bits[kStrip];
  unpack_bits(mask, begin, n, bits);
  for (int64_t i = 0; i < n; ++i) flags[i] &= bits[i];
}

// The flags of n elements, at most kStrip, that follow each other from `begin` on in memory and in logical
// order.
inline void fill_flags(const PassFlags& passing, int64_t begin, int64_t n, uint8_t* flags) {
  if (!passing.drops) return unpack_bits(passing.mask, begin, n, flags);
  draw_kept(passing.dropout, begin, n, flags);
  if (passing.mask) and_bits(passing.mask, begin, n, flags);
}

// Adds rows row .. row + rows of one channel to the draws; their flags are written from `flags` on.
inline void draw_rows(BlockDraws& draws, const ChannelShape& shape, int64_t row, int64_t rows,
                      int64_t channel, uint8_t* flags) {
  while (rows > 0) {
    const int64_t left = shape.positions - row % shape.positions, n = left < rows ? left : rows;
    draws.add(shape.logical_index(row, channel), n, flags);
    flags += n * draws.width();
    row += n;
    rows -= n;
  }
}

// Channels last: flags[k * width + i] is row `row` + k of channel `channel` + i. width: at most kStrip.
inline void fill_flags_last(const PassFlags& passing, const ChannelShape& shape, int64_t row, int64_t rows,
                            int64_t channel, int64_t width, uint8_t* flags) {
  const auto place = [&](int64_t k) { return (row + k) * shape.channels + channel; };
  if (passing.drops && shape.positions > 1) {
    BlockDraws draws(passing.dropout, width);
    for (int64_t i = 0; i < width; ++i) draw_rows(draws, shape, row, rows, channel + i, flags + i);
    draws.flush();
  } else if (passing.drops) {
    // Draws are made some hundred at a time: a short row alone would leave most of them unused.
    BlockDraws draws(passing.dropout, 1);
    for (int64_t k = 0; k < rows; ++k) draws.add(place(k), width, flags + k * width);
    draws.flush();
  }
  for (int64_t k = 0; k < rows && passing.mask; ++k) {
    if (passing.drops) {
      and_bits(passing.mask, place(k), width, flags + k * width);
    } else {
      unpack_bits(passing.mask, place(k), width, flags + k * width);
    }
  }
}

// The same for n elements that follow each other in memory from `begin` on, in any layout.
inline void fill_span(const PassFlags& passing, const ChannelShape& shape, int64_t begin, int64_t n,
                      uint8_t* flags) {
  if (!shape.channels_last || shape.positions == 1 || !passing.drops) {
    return fill_flags(passing, begin, n, flags);
  }
  const int64_t channels = shape.channels;
  BlockDraws draws(passing.dropout, channels);
  for (int64_t i = 0; i < channels && i < n; ++i) {
    const int64_t row = (begin + i) / channels, rows = (n - i + channels - 1) / channels;
    draw_rows(draws, shape, row, rows, (begin + i) % channels, flags + i);
  }
  draws.flush();
  if (passing.mask) and_bits(passing.mask, begin, n, flags);
}

}  // namespace onepass::ONEPASS_ISA
