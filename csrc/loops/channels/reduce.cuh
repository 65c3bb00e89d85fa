// reduce.cuh - two sums over each tile of each channel, on the GPU: parts[c * tiles + tile], in the order of
// tiles.cuh. CPU: reduce.h.
//
// An Op gives what is added: `Sums channel(c, rows)` makes the formula of a channel in a tile; `hold(sums,
// index, n, held)` loads n of its elements that follow each other in memory, `add(sums, held, n, s1, s2)`
// adds them to one lane each; `add_row(sums, index, lane, s1, s2)` adds one element of each of V channels, to
// s1[v][lane].
#pragma once

#include "core/cuda_device.cuh"
#include "core/packs.cuh"
#include "loops/channels/tiles.cuh"
#include "loops/common/block.cuh"
#include "math/moments.h"

namespace onepass::gpu {

constexpr int kChannelThreads = kReduceThreads;
constexpr int kChannelWarps = kChannelThreads / kWarp;
constexpr int kHeldAtOnce = 2;  // packs that are loaded before they are added
static_assert(kTileThreads == kWarp);

// lane[0] = the first `count` (a power of two, at most N) put together pairwise.
template <int N, class T>
__device__ __forceinline__ void merge_pairs(T (&lane)[N], int count) {
#pragma unroll
  for (int half = N / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) {
      if (i + half < count) lane[i] += lane[i + half];
    }
  }
}

// Both sums of a tile, in every thread of its warp.
template <class T>
__device__ __forceinline__ math::Pair merge_tile(T (&s1)[kChannelPack], T (&s2)[kChannelPack]) {
  merge_pairs(s1, kChannelPack);
  merge_pairs(s2, kChannelPack);
  return {sum_warp(double(s1[0])), sum_warp(double(s2[0]))};
}

// Where pack i of a tile begins in memory, channels first, and its elements; 0: there is no such pack.
__device__ __forceinline__ int first_elements(const ChannelShape& shape, const ChannelTile& tile, int i,
                                              int64_t channel, int64_t& index) {
  if (i >= tile.packs) return 0;
  const PackPlace place = tile.place(i);
  index = (place.plane * shape.channels + channel) * shape.positions + place.at;
  return place.n;
}

// Channels first: a warp for each tile.
template <class Op>
__global__ void __launch_bounds__(kChannelThreads)
    reduce_first_kernel(const __grid_constant__ Op op, math::Pair* parts) {
  using T = typename Op::T;
  const ChannelShape& shape = op.shape();
  const ChannelCut cut(shape);
  const int64_t tiles = cut.tiles(), unit = int64_t(blockIdx.x) * kChannelWarps + int(threadIdx.x) / kWarp;
  if (unit >= shape.channels * tiles) return;  // all of the warp
  const int64_t channel = unit / tiles;
  const ChannelTile tile = cut.tile(unit - channel * tiles);
  const RowRange rows = tile.rows();
  const auto sums = op.channel(channel, rows);
  T s1[kChannelPack] = {}, s2[kChannelPack] = {};
  for (int i = int(threadIdx.x) % kWarp; i < tile.packs; i += kHeldAtOnce * kWarp) {
    typename Op::Held held[kHeldAtOnce];
    int n[kHeldAtOnce];
#pragma unroll
    for (int k = 0; k < kHeldAtOnce; ++k) {
      int64_t index = 0;
      n[k] = first_elements(shape, tile, i + k * kWarp, channel, index);
      if (n[k] > 0) op.hold(sums, index, n[k], held[k]);
    }
#pragma unroll
    for (int k = 0; k < kHeldAtOnce; ++k) {
      if (n[k] > 0) op.add(sums, held[k], n[k], s1, s2);
    }
  }
  const math::Pair all = merge_tile(s1, s2);
  if (threadIdx.x % kWarp == 0) {
    parts[unit] = sums.part(double(rows.end - rows.begin), all.first, all.second);
  }
}

// A row of a channel: its place in memory.
__host__ __device__ __forceinline__ int64_t memory_index(const ChannelShape& shape, int64_t row,
                                                         int64_t channel) {
  return shape.channels_last ? row * shape.channels + channel : shape.logical_index(row, channel);
}

// Groups of V channels that a block takes at most, a power of two: a thread has that many lanes, so that all
// threads of a block have all lanes of all its channels.
template <int V>
constexpr int kMostGroups = V == 1 ? 8 : 2;

// Blocks of an SM that registers must suffice for: two, if numbers are not double.
template <class T>
constexpr int kBlocksAtOnce = sizeof(T) == 8 ? 1 : 2;

// Merges what the threads of a block left in shared memory, a warp for each channel: visit(c, both sums) in
// one thread for channel c of the block. sums: lane l of channel c at l * width + c; groups: lanes of a
// thread.
template <class T, int N, class Visit>
__device__ __forceinline__ void merge_block_lanes(const T (&sums)[2][N], int groups, int channels, int width,
                                                  const Visit& visit) {
  const int thread = int(threadIdx.x) % kWarp, apart = kChannelPack / groups;
  for (int c = int(threadIdx.x) / kWarp; c < channels; c += kChannelWarps) {
    T s[2][kChannelPack] = {};
#pragma unroll
    for (int k = 0; k < kChannelPack; ++k) {
      if (k < apart) {
        s[0][k] = sums[0][(thread + k * kTileThreads) * width + c];
        s[1][k] = sums[1][(thread + k * kTileThreads) * width + c];
      }
    }
    merge_pairs(s[0], apart);
    merge_pairs(s[1], apart);
    const math::Pair both{sum_warp(double(s[0][0])), sum_warp(double(s[1][0]))};
    if (thread == 0) visit(c, both);
  }
}

// One element of V channels at a time, wherever rows lie. groups: of V channels, of a block.
template <class Op, int V>
__global__ void __launch_bounds__(kChannelThreads, kBlocksAtOnce<typename Op::T>)
    reduce_rows_kernel(const __grid_constant__ Op op, int groups, math::Pair* parts) {
  using T = typename Op::T;
  using Sums = decltype(op.channel(0, RowRange{}));
  constexpr int kMost = kMostGroups<V>;
  KERNEL_SMEM(Sums, formulas, [kMost * V]);
  // Lane l of channel c is at l * width + c. One more element a lane spreads them over the banks.
  KERNEL_SMEM(T, lane_sums, [2][kChannelThreads * (V + 1)]);
  const ChannelShape& shape = op.shape();
  const ChannelCut cut(shape);
  // Blocks that follow each other read the same rows: pieces of the same lines of memory.
  const int64_t tiles = cut.tiles(), columns = gridDim.x / tiles, number = blockIdx.x / columns,
                column = blockIdx.x - number * columns;
  const ChannelTile tile = cut.tile(number);
  const RowRange rows = tile.rows();
  const int64_t first = column * groups * V, left = shape.channels - first;
  const int channels = left < groups * V ? int(left) : groups * V, width = groups * V + 1;
  if (int(threadIdx.x) < channels) formulas[threadIdx.x] = op.channel(first + threadIdx.x, rows);
  __syncthreads();

  const int own = int(threadIdx.x) % groups * V, lane = int(threadIdx.x) / groups,
            apart = kChannelPack / groups;
  if (own < channels) {
    Sums sums[V];
#pragma unroll
    for (int v = 0; v < V; ++v) sums[v] = formulas[own + v];
    T s1[V][kMost] = {}, s2[V][kMost] = {};
    for (int i = lane % kTileThreads; i < tile.packs; i += kTileThreads) {
      const PackPlace place = tile.place(i);
      const int64_t row = place.plane * cut.plane_rows + place.at;
#pragma unroll
      for (int m = 0; m < kMost; ++m) {
        const int at = lane / kTileThreads + m * apart;
        if (m < groups && at < place.n) {
          op.template add_row<V>(sums, memory_index(shape, row + at, first + own), m, s1, s2);
        }
      }
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      merge_pairs(s1[v], groups);
      merge_pairs(s2[v], groups);
      lane_sums[0][lane * width + own + v] = s1[v][0];
      lane_sums[1][lane * width + own + v] = s2[v][0];
    }
  }
  __syncthreads();

  merge_block_lanes(lane_sums, groups, channels, width, [&](int c, const math::Pair& all) {
    parts[(first + c) * tiles + number] =
        formulas[c].part(double(rows.end - rows.begin), all.first, all.second);
  });
}

// The sum of term(tile) over tiles, in every thread of a warp.
template <class Term>
__device__ __forceinline__ double sum_tiles(int64_t tiles, const Term& term) {
  double sum = 0;
  for (int64_t i = threadIdx.x % kWarp; i < tiles; i += kWarp) sum += term(i);
  return sum_warp(sum);
}

// Op: `finish(c, parts of channel c)`, run by a warp.
template <class Op>
__global__ void __launch_bounds__(kChannelThreads)
    finish_kernel(const __grid_constant__ Op op, const math::Pair* parts) {
  const int64_t channel = (int64_t(blockIdx.x) * kChannelThreads + threadIdx.x) / kWarp;
  const ChannelShape& shape = op.shape();
  // A warp is whole: all its threads have the same channel.
  if (channel < shape.channels) op.finish(channel, parts + channel * ChannelCut(shape).tiles());
}

// Blocks that keep a GPU busy, and the shortest piece of memory that is read whole.
constexpr int64_t kManyBlocks = 512;
constexpr int kSectorBytes = 32;

// How many groups of V channels a block takes. Results do not depend on it.
template <int V>
inline int groups_of_block(const ChannelShape& shape, int64_t tiles, int bytes) {
  const int64_t groups = (shape.channels + V - 1) / V;
  int each = kMostGroups<V>;
  while (each > 1 && each / 2 >= groups) each /= 2;
  while (each / 2 * V * bytes >= kSectorBytes && (groups + each - 1) / each * tiles < kManyBlocks) each /= 2;
  return each;
}

// parts, and what follows from them.
template <class Op>
void reduce_channels(const Op& op, int bytes, math::Pair* parts, cudaStream_t stream, const char* function) {
  const ChannelShape& shape = op.shape();
  const int64_t tiles = ChannelCut(shape).tiles();
  const dim3 threads(kChannelThreads);
  const auto blocks = [](int64_t units, int64_t each) { return dim3(unsigned((units + each - 1) / each)); };
  const auto by_rows = [&](auto width) {
    constexpr int V = decltype(width)::value;
    const int groups = groups_of_block<V>(shape, tiles, bytes);
    const dim3 columns = blocks(shape.channels, groups * V);
    cuda_check(launch(reduce_rows_kernel<Op, V>, dim3(unsigned(columns.x * tiles)), threads, 0, stream, op,
                      groups, parts),
               function);
  };
  if (!shape.channels_last && ChannelCut::in_planes(shape)) {
    cuda_check(launch(reduce_first_kernel<Op>, blocks(shape.channels * tiles, kChannelWarps), threads, 0,
                      stream, op, parts),
               function);
  } else if (shape.channels_last && shape.channels % kChannelPack == 0) {
    by_rows(std::integral_constant<int, kChannelPack>{});
  } else {
    by_rows(std::integral_constant<int, 1>{});
  }
  cuda_check(launch(finish_kernel<Op>, blocks(shape.channels, kChannelWarps), threads, 0, stream, op, parts),
             function);
}

}  // namespace onepass::gpu
