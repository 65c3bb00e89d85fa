// rows.cuh - rows on the GPU: a warp for each short row, a block for each long one; columns of some rows.
// CPU: rows.h.
//
// The threads of a row take its packs in turn. What a thread has read it keeps in registers, up to kHeldPacks
// packs; of a longer row it reads the rest again, each element by the thread that read or wrote it before.
// Sums of a thread are in T, then merged in double and a fixed order.
#pragma once

#include "core/cuda_device.cuh"
#include "core/packs.cuh"
#include "loops/common/block.cuh"
#include "loops/rows/shape.h"
#include "math/moments.h"

namespace onepass::gpu {

constexpr int kRowPack = 4;
constexpr int kHeldPacks = 8;
// Rows of up to this width have a warp each.
constexpr int64_t kWarpRow = int64_t(kWarp) * kRowPack * kHeldPacks;

// The sum over the threads of a row, in all of them.
template <int kThreads>
__device__ __forceinline__ double sum_row(double value) {
  value = sum_warp(value);
  if constexpr (kThreads > kWarp) {
    KERNEL_SMEM(double, warps, [kThreads / kWarp]);
    __syncthreads();  // the array may still be read from the call before
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
    __syncthreads();
    value = 0;
    for (int w = 0; w < kThreads / kWarp; ++w) value += warps[w];
  }
  return value;
}

// The packs of one thread. visit(k, column, n): its pack k, n elements from `column` on.
template <int kThreads>
struct RowPacks {
  int64_t width;
  int thread;

  template <class Visit>
  __device__ __forceinline__ void held(const Visit& visit) const {
#pragma unroll
    for (int k = 0; k < kHeldPacks; ++k) {
      const int64_t column = (int64_t(k) * kThreads + thread) * kRowPack;
      if (column < width) visit(k, column, count(column));
    }
  }
  template <class Visit>
  __device__ __forceinline__ void others(const Visit& visit) const {
    for (int64_t k = kHeldPacks;; ++k) {
      const int64_t column = (k * kThreads + thread) * kRowPack;
      if (column >= width) return;
      visit(column, count(column));
    }
  }

 private:
  __device__ __forceinline__ int count(int64_t column) const {
    return width - column < kRowPack ? int(width - column) : kRowPack;
  }
};

// Work: `shape`, and run<kThreads>(row, packs) for all threads of a row.
template <class Work, int kThreads>
__global__ void __launch_bounds__(kReduceThreads) rows_kernel(const __grid_constant__ Work work) {
  constexpr int kRows = kReduceThreads / kThreads;
  const int64_t row = int64_t(blockIdx.x) * kRows + int(threadIdx.x) / kThreads;
  // Alike for the threads of a warp; a block that has one row has it.
  if (row >= work.shape.rows) return;
  work.template run<kThreads>(row, RowPacks<kThreads>{work.shape.width, int(threadIdx.x) % kThreads});
}

template <class Work>
void launch_rows(const Work& work, cudaStream_t stream, const char* what) {
  const dim3 threads(kReduceThreads);
  if (work.shape.width <= kWarpRow) {
    constexpr int64_t kRows = kReduceThreads / kWarp;
    const dim3 grid(unsigned((work.shape.rows + kRows - 1) / kRows));
    cuda_check(launch(rows_kernel<Work, kWarp>, grid, threads, 0, stream, work), what);
  } else {
    const dim3 grid{unsigned(work.shape.rows)};
    cuda_check(launch(rows_kernel<Work, kReduceThreads>, grid, threads, 0, stream, work), what);
  }
}

// Work: add(row, column, s1, s2), and two sums for each column of each part at sums(part, column).
template <class Work>
__global__ void __launch_bounds__(kReduceThreads) columns_kernel(const __grid_constant__ Work work) {
  using T = typename Work::T;
  const int64_t blocks = (work.shape.width + kReduceThreads - 1) / kReduceThreads;
  const int64_t part = int64_t(blockIdx.x) / blocks;
  const int64_t column = int64_t(blockIdx.x) % blocks * kReduceThreads + threadIdx.x;
  if (column >= work.shape.width) return;
  const int64_t begin = part * work.shape.part_rows(), last = begin + work.shape.part_rows();
  const int64_t end = last < work.shape.rows ? last : work.shape.rows;
  T s1 = 0, s2 = 0;
  for (int64_t row = begin; row < end; ++row) work.add(row, column, s1, s2);
  work.set(part, column, s1, s2);
}

// Work: part(part, column) and finish(column, pair).
template <class Work>
__global__ void __launch_bounds__(kReduceThreads) parts_kernel(const __grid_constant__ Work work) {
  const int64_t column = int64_t(blockIdx.x) * kReduceThreads + threadIdx.x;
  if (column >= work.shape.width) return;
  math::Pair sums{0, 0};
  for (int64_t part = 0; part < work.shape.parts(); ++part) {
    const math::Pair next = work.part(part, column);
    sums = {sums.first + next.first, sums.second + next.second};
  }
  work.finish(column, sums);
}

template <class Work>
void launch_columns(const Work& work, cudaStream_t stream, const char* what) {
  const dim3 threads(kReduceThreads);
  const int64_t blocks = (work.shape.width + kReduceThreads - 1) / kReduceThreads;
  const dim3 grid(unsigned(blocks * work.shape.parts()));
  cuda_check(launch(columns_kernel<Work>, grid, threads, 0, stream, work), what);
  const dim3 columns{unsigned(blocks)};
  cuda_check(launch(parts_kernel<Work>, columns, threads, 0, stream, work), what);
}

}  // namespace onepass::gpu
