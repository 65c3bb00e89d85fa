// channel_shape.h - a tensor seen as batch x channels x positions, and how a channel is cut for statistics.
// The same on both devices (channels.h, channels.cuh).
//
// The elements of one channel are numbered through the batch: row r = n * positions + s, 0 <= r < rows().
// Tiles are kTile of them in this order, in either layout of memory: the statistics of a channel are put
// together in an order that depends on the number of its elements alone.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass {

constexpr int64_t kTile = 2048;

struct ChannelShape {
  int64_t batch = 0, channels = 0, positions = 0;
  // Memory: false: batch, channels, positions. true: batch, positions, channels.
  bool channels_last = false;

  ONEPASS_HD int64_t rows() const { return batch * positions; }
  ONEPASS_HD int64_t numel() const { return rows() * channels; }
  ONEPASS_HD int64_t tiles() const { return (rows() + kTile - 1) / kTile; }
  // In the layout with the channels first.
  ONEPASS_HD int64_t logical_index(int64_t row, int64_t channel) const {
    const int64_t n = row / positions;
    return (n * (channels - 1) + channel) * positions + row;
  }
};

}  // namespace onepass
