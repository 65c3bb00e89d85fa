// block.cuh - merges one number of each thread of a warp, or of a block, pairwise and in a fixed order, on
// the GPU.
#pragma once

#include "core/kernel_compat.cuh"

namespace onepass::gpu {

constexpr int kReduceThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The sum over a warp, in all of its threads.
__device__ __forceinline__ double sum_warp(double value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

// The merged value of all threads of a block of kReduceThreads, in thread 0.
template <class Merge>
__device__ __forceinline__ double merge_block(double value, const Merge& merge) {
  KERNEL_SMEM(double, warps, [kReduceThreads / kWarp]);
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = merge(value, __shfl_down_sync(kAllLanes, value, unsigned(offset)));
  }
  const int warp = int(threadIdx.x) / kWarp;
  __syncthreads();  // the array may still be read from the call before
  if (threadIdx.x % kWarp == 0) warps[warp] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kReduceThreads / kWarp; ++w) value = merge(value, warps[w]);
  }
  return value;
}

}  // namespace onepass::gpu
