// channels.cuh - statistics of each channel, then a formula made of them for each element, on the GPU. CPU:
// channels.h.
//
// The first walk cuts every channel in tiles, a warp each or a block for some channels, so that three
// channels of a large batch fill a GPU as well as three hundred do; a second kernel puts the tiles together
// in their order (reduce.cuh). The second walk is linear in memory and begins at its end, which the
// first one has left in the cache. Channels first and short: a block takes a whole channel, keeps it in
// registers between the two walks, and memory is read once, in one launch. All ways add in the same order
// (tiles.cuh).
#pragma once

#include "loops/channels/reduce.cuh"

namespace onepass::gpu {

constexpr int kPacksPerThread = 4;  // of the second walk
constexpr int64_t kHeldLeast = 32;  // channels for which a block each is worth it

// Whether a block can keep a channel, a tile in each of its warps. whole_bytes: no two packs may share a byte
// of a bit mask.
inline bool keeps_channel(const ChannelShape& shape, bool whole_bytes) {
  if (shape.channels_last || shape.channels < kHeldLeast || !ChannelCut::in_planes(shape)) return false;
  if (whole_bytes && shape.positions % kChannelPack != 0) return false;
  return ChannelCut(shape).tiles() <= kChannelWarps;
}

// Both walks of a channel, which stays in registers between them: a block has a warp for each tile. Op: as
// for the sums (reduce.cuh), and as for the second walk (walk_kernel).
template <class Op>
__global__ void __launch_bounds__(kChannelThreads)
    whole_channel_kernel(const __grid_constant__ Op op, math::Pair* parts) {
  using T = typename Op::T;
  constexpr int V = kChannelPack;
  const ChannelShape& shape = op.shape();
  const ChannelCut cut(shape);
  const int64_t channel = blockIdx.x, tiles = cut.tiles(), number = int(threadIdx.x) / kWarp;
  const ChannelTile tile = cut.tile(number);
  const int thread = int(threadIdx.x) % kWarp;
  typename Op::Held held[kTileSteps];
  {
    const RowRange rows = tile.rows();
    const auto sums = op.channel(channel, rows);
    T s1[V] = {}, s2[V] = {};
#pragma unroll
    for (int k = 0; k < kTileSteps; ++k) {
      int64_t index = 0;
      const int n = first_elements(shape, tile, thread + k * kWarp, channel, index);
      if (n == 0) continue;
      op.hold(sums, index, n, held[k]);
      op.add(sums, held[k], n, s1, s2);
    }
    const math::Pair all = merge_tile(s1, s2);
    if (thread == 0) {
      parts[channel * tiles + number] = sums.part(double(rows.end - rows.begin), all.first, all.second);
    }
  }
  __syncthreads();
  if (threadIdx.x < kWarp) op.finish(channel, parts + channel * tiles);
  __syncthreads();
  decltype(op.params(0)) params[V];
  params[0] = op.params(channel);
#pragma unroll
  for (int v = 1; v < V; ++v) params[v] = params[0];
#pragma unroll
  for (int k = 0; k < kTileSteps; ++k) {
    int64_t index = 0;
    const int n = first_elements(shape, tile, thread + k * kWarp, channel, index);
    if (n > 0) op.run(params, held[k], index, n);
  }
}

// Threads of a block of the second walk. With the channels last it is, if possible, a number for which a
// thread's packs all belong to the same channels.
__host__ __device__ __forceinline__ int walking_threads(const ChannelShape& shape) {
  const int64_t packs = shape.channels / kChannelPack;
  const bool whole = shape.channels % kChannelPack == 0 && packs <= kChannelThreads;
  return shape.channels_last && whole ? int(kChannelThreads / packs * packs) : kChannelThreads;
}

// The second walk. Op: `Params params(c) const`; `load(params, index, n, held)` with params[v] of element
// index + v; `run(params, held, index, n)`.
template <class Op, bool kLast>
__global__ void __launch_bounds__(kChannelThreads) walk_kernel(const __grid_constant__ Op op) {
  constexpr int V = kChannelPack;
  const ChannelShape& shape = op.shape();
  const int threads = walking_threads(shape);
  const int64_t numel = shape.numel(), step = int64_t(threads) * V;
  const int64_t begin = int64_t(gridDim.x - 1 - blockIdx.x) * step * kPacksPerThread;
  if (int(threadIdx.x) >= threads) return;
  decltype(op.params(0)) params[V];
  int64_t known = -1;
  for (int k = 0; k < kPacksPerThread; ++k) {
    const int64_t index = begin + k * step + int64_t(threadIdx.x) * V;
    if (index >= numel) return;
    if (kLast) {
      int64_t channel = index % shape.channels;
      if (channel != known) {
        known = channel;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          params[v] = op.params(channel);
          if (++channel == shape.channels) channel = 0;
        }
      }
    } else {
      const int64_t plane = index / shape.positions;
      int64_t channel = plane % shape.channels, end = (plane + 1) * shape.positions;
      if (channel != known || end - index < V) {
        known = end - index < V ? -1 : channel;
        params[0] = op.params(channel);
#pragma unroll
        for (int v = 1; v < V; ++v) {
          if (index + v == end) {
            channel = channel + 1 == shape.channels ? 0 : channel + 1;
            end += shape.positions;
            params[v] = op.params(channel);
          } else {
            params[v] = params[v - 1];
          }
        }
      }
    }
    const int n = numel - index < V ? int(numel - index) : V;
    typename Op::Held held;
    op.load(params, index, n, held);
    op.run(params, held, index, n);
  }
}

}  // namespace onepass::gpu
