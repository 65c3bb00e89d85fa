// statistics.cuh - sums, extremes and histograms of an image of floats, on the GPU: those of the rows first,
// each by the kRowThreads threads of half a warp, then what follows for the image.
//
// A sum is that of statistics.h, to the bit: a thread is a lane, the lanes of a row are merged pairwise, and
// rows are added in order.
#pragma once

#include "loops/common/block.cuh"
#include "loops/images/view.h"

namespace onepass::gpu {

constexpr int kRowThreads = 16;
constexpr int kRowsOfBlock = kReduceThreads / kRowThreads;

struct Extremes {
  float least, most;
};

// The sum of value(x), x < width, in all threads of the row. width may be 0.
template <class Value>
__device__ __forceinline__ double sum_row(int64_t width, const Value& value) {
  double sum = 0;
  for (int64_t x = threadIdx.x % kRowThreads; x < width; x += kRowThreads) sum += double(value(x));
#pragma unroll
  for (int offset = kRowThreads / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, offset);
  }
  return sum;
}

__device__ __forceinline__ void add_extremes(Extremes other, Extremes& extremes) {
  extremes.least = other.least < extremes.least ? other.least : extremes.least;
  extremes.most = other.most > extremes.most ? other.most : extremes.most;
}

// kThreads: neighbours in a warp that merge theirs.
template <int kThreads>
__device__ __forceinline__ Extremes merge_extremes(Extremes extremes) {
#pragma unroll
  for (int offset = kThreads / 2; offset > 0; offset /= 2) {
    const Extremes other{__shfl_xor_sync(kAllLanes, extremes.least, offset),
                         __shfl_xor_sync(kAllLanes, extremes.most, offset)};
    add_extremes(other, extremes);
  }
  return extremes;
}

// The extremes of a row, in all of its threads. A nan is neither.
__device__ __forceinline__ Extremes extremes_of_row(int64_t width, const float* v, Extremes none) {
  Extremes extremes = none;
  for (int64_t x = threadIdx.x % kRowThreads; x < width; x += kRowThreads)
    add_extremes({v[x], v[x]}, extremes);
  return merge_extremes<kRowThreads>(extremes);
}

// The extremes of `count` pairs that lie `stride` apart, in all threads of a warp.
__device__ __forceinline__ Extremes merge_rows(const Extremes* rows, int64_t count, int64_t stride,
                                               Extremes none) {
  Extremes extremes = none;
  for (int64_t y = threadIdx.x % kWarp; y < count; y += kWarp) add_extremes(rows[y * stride], extremes);
  return merge_extremes<kWarp>(extremes);
}

}  // namespace onepass::gpu
