// channels.cuh - statistics of each channel, then a formula made of them for each element, on the GPU. CPU:
// channels.h.
//
// The first walk cuts every channel in tiles of some thousand elements, a block each, so that three channels
// of a large batch fill a GPU as well as three hundred do; a second kernel puts the tiles together in their
// order. The cut depends on the shape alone, never on the GPU. Packs are 8 elements in 16-byte accesses,
// where the addresses allow. The second walk is linear in memory and begins at its end, which the first one
// has left in the cache. Channels first and short: a block takes a whole channel, keeps it in registers
// between the two walks, and memory is read once, in one launch.
#pragma once

#include "core/cuda_device.cuh"
#include "core/packs.cuh"
#include "loops/channel_shape.h"
#include "loops/reduce.cuh"
#include "math/moments.h"

namespace onepass::gpu {

constexpr int kChannelThreads = kReduceThreads;
constexpr int kChannelPack = 8;
constexpr int64_t kLastRows = 512;  // rows of a tile with the channels last
constexpr int kLastPacks = 32;      // of a row in a tile, at most
constexpr int kPacksPerThread = 4;  // of the second walk
constexpr int64_t kShiftRows = 8;   // rows of a tile whose mean is the shift
constexpr int kHeldPacks = 8;       // of a thread that keeps its part of a channel
constexpr int64_t kHeldLeast = 32;  // channels for which a block each is worth it

__host__ __device__ __forceinline__ int64_t device_tiles(const ChannelShape& shape) {
  return shape.channels_last ? (shape.rows() + kLastRows - 1) / kLastRows : shape.tiles();
}

__host__ __device__ __forceinline__ RowRange device_tile(const ChannelShape& shape, int64_t tile) {
  if (!shape.channels_last) return shape.tile(tile);
  const int64_t begin = tile * kLastRows, end = begin + kLastRows;
  return {begin, end < shape.rows() ? end : shape.rows()};
}

__host__ __device__ __forceinline__ int64_t memory_index(const ChannelShape& shape, int64_t row,
                                                         int64_t channel) {
  return shape.channels_last ? row * shape.channels + channel : shape.logical_index(row, channel);
}

// registers = from[0 .. n), and `missing` beyond.
template <int V, class S, class T>
__device__ __forceinline__ void load_part(const S* from, int n, T missing, T (&registers)[V]) {
  if (n == V) return load_pack<V>(from, pack_aligned<S, V>(from), registers);
#pragma unroll
  for (int v = 0; v < V; ++v) registers[v] = v < n ? T(widen(from[v])) : missing;
}

template <int V, class S, class T>
__device__ __forceinline__ void store_part(S* to, int n, const T (&registers)[V]) {
  if (n == V) return store_pack<V>(to, pack_aligned<S, V>(to), registers);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    if (v < n) to[v] = narrow<S>(registers[v]);
  }
}

__host__ __device__ __forceinline__ int64_t packs_of_plane(const ChannelShape& shape) {
  return (shape.positions + kChannelPack - 1) / kChannelPack;
}

// Whether a block can keep a channel. whole_bytes: a pack must not share a byte of a bit mask with another.
inline bool keeps_channel(const ChannelShape& shape, bool whole_bytes) {
  if (shape.channels_last || shape.channels < kHeldLeast) return false;
  if (whole_bytes && shape.positions % kChannelPack != 0) return false;
  return shape.batch * packs_of_plane(shape) <= int64_t(kHeldPacks) * kChannelThreads;
}

// Calls visit(index, n) for the packs of a tile of one channel that are this thread's, channels first: n
// elements that follow each other in memory.
template <class Visit>
__device__ __forceinline__ void for_own_packs(const ChannelShape& shape, const RowRange& rows,
                                              int64_t channel, const Visit& visit) {
  if (shape.positions < kShortPlane) {
    for (int64_t row = rows.begin + threadIdx.x; row < rows.end; row += kChannelThreads) {
      visit(shape.logical_index(row, channel), 1);
    }
    return;
  }
  // A tile is some whole planes or a part of one.
  const int count = int(rows.end - rows.begin);
  const int run = count < shape.positions ? count : int(shape.positions),
            packs = (run + kChannelPack - 1) / kChannelPack;
  for (int q = int(threadIdx.x); q < count / run * packs; q += kChannelThreads) {
    const int plane = q / packs, at = (q - plane * packs) * kChannelPack;
    visit(shape.logical_index(rows.begin + int64_t(plane) * run + at, channel),
          run - at < kChannelPack ? run - at : kChannelPack);
  }
}

// The sums of all lanes of a block's threads, in thread 0.
template <class T>
__device__ __forceinline__ math::Pair merge_lanes(const T (&s1)[kChannelPack], const T (&s2)[kChannelPack]) {
  double a = 0, b = 0;
#pragma unroll
  for (int v = 0; v < kChannelPack; ++v) {
    a += double(s1[v]);
    b += double(s2[v]);
  }
  const auto add = [](double x, double y) { return x + y; };
  a = merge_block(a, add);
  b = merge_block(b, add);
  return {a, b};
}

// Channels first. Op: `Sums channel(c, rows)` makes the formula of a channel in a tile; `hold(sums, index, n,
// held)` loads n of its elements that follow each other in memory; `add(sums, held, n, s1, s2)` adds them.
template <class Op>
__global__ void __launch_bounds__(kChannelThreads)
    reduce_first_kernel(const __grid_constant__ Op op, math::Pair* parts) {
  using T = typename Op::T;
  const ChannelShape& shape = op.shape();
  const int64_t tiles = shape.tiles(), channel = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const RowRange rows = shape.tile(tile);
  const auto sums = op.channel(channel, rows);
  T s1[kChannelPack] = {}, s2[kChannelPack] = {};
  for_own_packs(shape, rows, channel, [&](int64_t index, int n) {
    typename Op::Held held;
    op.hold(sums, index, n, held);
    op.add(sums, held, n, s1, s2);
  });
  const math::Pair all = merge_lanes(s1, s2);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = sums.part(double(rows.end - rows.begin), all.first, all.second);
  }
}

// Channels last: a thread adds packs of the same V channels in some rows of the tile. Op: as above, and
// `add_row(sums, index, s1, s2)` adds one element of each of V channels.
template <class Op, int V>
__global__ void __launch_bounds__(kChannelThreads)
    reduce_last_kernel(const __grid_constant__ Op op, math::Pair* parts) {
  using T = typename Op::T;
  KERNEL_SMEM(double, lanes_of, [2][kChannelThreads * V]);
  const ChannelShape& shape = op.shape();
  const int64_t tiles = device_tiles(shape), tile = blockIdx.x % tiles,
                first = blockIdx.x / tiles * kLastPacks;
  const int64_t left = shape.channels / V - first;
  const int packs = left < kLastPacks ? int(left) : kLastPacks, lanes = kChannelThreads / packs;
  const int pack = int(threadIdx.x) % packs, lane = int(threadIdx.x) / packs;
  const int64_t channel = (first + pack) * V;
  const RowRange rows = device_tile(shape, tile);
  decltype(op.channel(channel, rows)) sums[V];
  T s1[V] = {}, s2[V] = {};
#pragma unroll
  for (int v = 0; v < V; ++v) sums[v] = op.channel(channel + v, rows);
  if (lane < lanes) {
    for (int64_t row = rows.begin + lane; row < rows.end; row += lanes) {
      op.add_row(sums, row * shape.channels + channel, s1, s2);
    }
  }
#pragma unroll
  for (int v = 0; v < V; ++v) {
    lanes_of[0][int(threadIdx.x) * V + v] = double(s1[v]);
    lanes_of[1][int(threadIdx.x) * V + v] = double(s2[v]);
  }
  __syncthreads();
  if (int(threadIdx.x) < packs * V) {
    const int64_t own = first * V + threadIdx.x;
    double a = 0, b = 0;
    for (int l = 0; l < lanes; ++l) {
      a += lanes_of[0][l * packs * V + int(threadIdx.x)];
      b += lanes_of[1][l * packs * V + int(threadIdx.x)];
    }
    parts[own * tiles + tile] = op.channel(own, rows).part(double(rows.end - rows.begin), a, b);
  }
}

__device__ __forceinline__ double merge_warp(double value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// The sum of term(tile) over tiles, in every thread of a warp.
template <class Term>
__device__ __forceinline__ double sum_tiles(int64_t tiles, const Term& term) {
  double sum = 0;
  for (int64_t i = threadIdx.x % kWarp; i < tiles; i += kWarp) sum += term(i);
  return merge_warp(sum);
}

// Op: `finish(c, parts of channel c)`, run by a warp.
template <class Op>
__global__ void __launch_bounds__(kChannelThreads)
    finish_kernel(const __grid_constant__ Op op, const math::Pair* parts) {
  const int64_t channel = (int64_t(blockIdx.x) * kChannelThreads + threadIdx.x) / kWarp;
  const ChannelShape& shape = op.shape();
  // A warp is whole: all its threads have the same channel.
  if (channel < shape.channels) op.finish(channel, parts + channel * op.tiles());
}

// Both walks of a channel, which stays in registers meanwhile. parts[c]: the channel as one tile. Op: as
// above, and as for the second walk.
template <class Op>
__global__ void __launch_bounds__(kChannelThreads)
    whole_channel_kernel(const __grid_constant__ Op op, math::Pair* parts) {
  using T = typename Op::T;
  constexpr int V = kChannelPack;
  const ChannelShape& shape = op.shape();
  const int64_t channel = blockIdx.x;
  const int in_plane = int(packs_of_plane(shape)), packs = int(shape.batch) * in_plane;
  const auto place = [&](int k, int64_t& index) {
    const int q = k * kChannelThreads + int(threadIdx.x), plane = q / in_plane,
              at = (q - plane * in_plane) * V;
    if (q >= packs) return 0;
    index = shape.logical_index(int64_t(plane) * shape.positions + at, channel);
    return int(shape.positions - at < V ? shape.positions - at : V);
  };
  typename Op::Held held[kHeldPacks];
  const auto sums = op.channel(channel, op.tile(0));
  T s1[V] = {}, s2[V] = {};
#pragma unroll
  for (int k = 0; k < kHeldPacks; ++k) {
    int64_t index = 0;
    const int n = place(k, index);
    if (n == 0) continue;
    op.hold(sums, index, n, held[k]);
    op.add(sums, held[k], n, s1, s2);
  }
  const math::Pair all = merge_lanes(s1, s2);
  if (threadIdx.x == 0) parts[channel] = sums.part(double(shape.rows()), all.first, all.second);
  __syncthreads();
  if (threadIdx.x < kWarp) op.finish(channel, parts + channel);
  __syncthreads();
  decltype(op.params(0)) params[V];
  params[0] = op.params(channel);
#pragma unroll
  for (int v = 1; v < V; ++v) params[v] = params[0];
#pragma unroll
  for (int k = 0; k < kHeldPacks; ++k) {
    int64_t index = 0;
    const int n = place(k, index);
    if (n > 0) op.run(params, held[k], index, n);
  }
}

// Threads of a block of the second walk: with the channels last, if possible, so many that the next pack of a
// thread is of the same channels.
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
