// tiles.cuh - how the GPU cuts a channel for its sums, and the order in which these are added: one order for
// all layouts and kernels, so that all give the same bits. CPU: shape.h.
//
// The positions of one n, a plane, are cut in packs of 8 rows, the last of which may be shorter; the packs of
// all planes follow each other, and 256 of them are a tile. (Planes of less than a pack would leave most of
// it empty: there all rows count as one plane.) The sums of a tile, with p = t + 32 k for pack p:
//
//   lane (v, t) = row v of packs t, t + 32, t + 64, ... added in this order, in T
//   lanes are put together pairwise: (v, t) and (v + 4, t), then v + 2, then v + 1, in T; then t + 16, t + 8,
//   t + 4, t + 2, t + 1, in double
//
// Where the channels come first a warp adds a tile (v: elements of a pack, t: its threads).
// Elsewhere a thread takes some lanes of some channels. The cut depends only on the shape, never on the GPU.
#pragma once

#include "core/kernel_compat.cuh"
#include "loops/channels/shape.h"

namespace onepass::gpu {

constexpr int kChannelPack = 8;
constexpr int kTileThreads = 32;
constexpr int kTileSteps = 8;
constexpr int kTilePacks = kTileThreads * kTileSteps;

// Some rows of a plane that follow each other: rows at .. at + n.
struct PackPlace {
  int64_t plane, at;
  int n;
};

// Packs first .. first + packs of a channel.
struct ChannelTile {
  int64_t plane_rows, plane_packs;
  int64_t plane, pack;  // where it begins
  int packs;

  // Pack i, 0 <= i <= packs.
  __host__ __device__ __forceinline__ PackPlace place(int i) const {
    int64_t own_plane = plane, own = pack + i;
    if (own >= plane_packs) {
      // What is left is at most a tile: no division of 64 bits.
      const int over = int(own - plane_packs),
                each = plane_packs < 2 * kTilePacks ? int(plane_packs) : 2 * kTilePacks;
      own_plane += 1 + over / each;
      own = over % each;
    }
    const int64_t at = own * kChannelPack, left = plane_rows - at;
    return {own_plane, at, left < kChannelPack ? int(left) : kChannelPack};
  }
  __host__ __device__ __forceinline__ RowRange rows() const {
    const PackPlace end = place(packs);
    return {plane * plane_rows + pack * kChannelPack, end.plane * plane_rows + end.at};
  }
};

struct ChannelCut {
  int64_t plane_rows, plane_packs, packs;

  __host__ __device__ explicit ChannelCut(const ChannelShape& shape)
      : plane_rows(in_planes(shape) ? shape.positions : shape.rows()),
        plane_packs((plane_rows + kChannelPack - 1) / kChannelPack),
        packs(in_planes(shape) ? shape.batch * plane_packs : plane_packs) {}

  // Whether planes are those of the shape; else all rows are one plane.
  __host__ __device__ static bool in_planes(const ChannelShape& shape) {
    return shape.positions >= kChannelPack;
  }
  __host__ __device__ int64_t tiles() const { return (packs + kTilePacks - 1) / kTilePacks; }
  __host__ __device__ ChannelTile tile(int64_t i) const {
    const int64_t first = i * kTilePacks, left = packs - first, plane = first / plane_packs;
    return {plane_rows, plane_packs, plane, first - plane * plane_packs,
            left < kTilePacks ? int(left) : kTilePacks};
  }
};

}  // namespace onepass::gpu
