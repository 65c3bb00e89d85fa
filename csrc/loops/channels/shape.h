// shape.h - a tensor seen as batch x channels x positions, and how the CPU cuts a channel for statistics.
// GPU: tiles.cuh.
//
// The elements of one channel are numbered through the batch: row r = n * positions + s, 0 <= r < rows().
// They are cut in tiles, and a tile in runs that end with a plane (the positions of one n), so that a run is
// one piece of memory where the channels come first. The cut depends on batch and positions only: statistics
// are merged in the same order in either layout and for any number of threads.
#pragma once

#include <cstdint>

#include "core/compiler.h"

namespace onepass {

constexpr int64_t kTileRows = 512;   // rows of a tile of several planes, about
constexpr int64_t kShortTile = 512;  // the same, if planes are short
constexpr int64_t kWideTile = 4096;  // rows of a tile at most
constexpr int64_t kShortPlane = 64;  // planes of fewer positions end no run: the whole tile is one
constexpr int64_t kShiftRows = 8;    // first rows of a tile, whose mean is the shift of its sums

struct RowRange {
  int64_t begin, end;
};

struct ChannelShape {
  int64_t batch = 0, channels = 0, positions = 0;
  // The order of memory. false: batch, channels, positions. true: batch, positions, channels.
  bool channels_last = false;

  ONEPASS_HD int64_t rows() const { return batch * positions; }
  ONEPASS_HD int64_t numel() const { return rows() * channels; }
  // An element's place in the layout with the channels first.
  ONEPASS_HD int64_t logical_index(int64_t row, int64_t channel) const {
    const int64_t n = row / positions;
    return (n * (channels - 1) + channel) * positions + row;
  }

  // Tiles of a plane that is cut in several, else 0.
  ONEPASS_HD int64_t tiles_of_plane() const {
    return positions > kWideTile ? (positions + kWideTile - 1) / kWideTile : 0;
  }
  ONEPASS_HD int64_t tile_rows() const {
    if (positions < kShortPlane) return kShortTile;
    if (positions > kWideTile) return kWideTile;
    return (positions < kTileRows ? kTileRows / positions : 1) * positions;
  }
  ONEPASS_HD int64_t tiles() const {
    return positions > kWideTile ? batch * tiles_of_plane() : (rows() + tile_rows() - 1) / tile_rows();
  }
  ONEPASS_HD RowRange tile(int64_t i) const {
    if (positions > kWideTile) {
      const int64_t plane = i / tiles_of_plane() * positions, begin = i % tiles_of_plane() * kWideTile;
      return {plane + begin, plane + (begin + kWideTile < positions ? begin + kWideTile : positions)};
    }
    const int64_t begin = i * tile_rows(), end = begin + tile_rows();
    return {begin, end < rows() ? end : rows()};
  }
  // The end of the run that begins at `row` in a tile.
  ONEPASS_HD int64_t run_end(int64_t row, const RowRange& tile) const {
    if (positions < kShortPlane) return tile.end;
    const int64_t plane_end = (row / positions + 1) * positions;
    return plane_end < tile.end ? plane_end : tile.end;
  }
};

}  // namespace onepass
