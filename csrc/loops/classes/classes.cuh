// classes.cuh - walks over logits by class on the GPU: along rows, a block each, and over rows side by side,
// a thread each. CPU: rows.h, columns.h.
//
// Rows are cut in segments, so that a few of them fill a GPU as well as many do; another kernel puts the
// segments together in their order. The cut depends only on the shape, never on the GPU: fixed bits.
#pragma once

#include <climits>

#include "core/cuda_device.cuh"
#include "core/packs.cuh"
#include "loops/classes/shape.h"
#include "loops/common/block.cuh"
#include "math/cross_entropy.h"

namespace onepass::gpu {

constexpr int kClassThreads = kReduceThreads;
constexpr int kClassPack = 8;
constexpr int64_t kRowSegment = 16384;    // classes of a row that a block takes
constexpr int64_t kColumnSegment = 1024;  // that a thread takes
constexpr int64_t kClassesAtOnce = 32;

__host__ __device__ __forceinline__ int64_t segment_classes(const ClassShape& shape) {
  return shape.walks_columns() ? kColumnSegment : kRowSegment;
}
__host__ __device__ __forceinline__ int64_t segments_of(const ClassShape& shape) {
  return (shape.classes + segment_classes(shape) - 1) / segment_classes(shape);
}

// The sums over some classes, and the first class with the largest logit.
template <class T>
struct SegmentSums {
  math::SoftmaxSums<T, T> sums;
  int64_t best;
};

template <class T>
__device__ __forceinline__ SegmentSums<T> no_classes() {
  return {{{T(0), T(0), T(0), T(0)}, -T(INFINITY)}, -1};
}

// b's classes follow a's, or lie among them: of equal logits the first class is the best.
template <class T>
__device__ __forceinline__ SegmentSums<T> merge_segments(const SegmentSums<T>& a, const SegmentSums<T>& b) {
  const bool second =
      b.sums.max > a.sums.max || a.best < 0 || (b.sums.max == a.sums.max && b.best >= 0 && b.best < a.best);
  return {math::merge(a.sums, b.sums), second ? b.best : a.best};
}

// The sums of a warp, and its first class with the largest logit.
struct WarpSums {
  math::TermSums<double> terms;
  long long best;
};

// The sums of all threads of a block, in thread 0: raised to the block's maximum once, and then added in
// double.
template <class T>
__device__ __forceinline__ SegmentSums<T> merge_class_block(SegmentSums<T> value) {
  KERNEL_SMEM(WarpSums, warps, [kClassThreads / kWarp]);
  KERNEL_SMEM(T, largest, [kClassThreads / kWarp]);
  T max = value.sums.max;
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    max = math::larger(max, __shfl_xor_sync(kAllLanes, max, offset));
  }
  const int warp = int(threadIdx.x) / kWarp;
  if (threadIdx.x % kWarp == 0) largest[warp] = max;
  __syncthreads();
  for (int w = 0; w < kClassThreads / kWarp; ++w) max = math::larger(max, largest[w]);
  long long best = value.sums.max == max && value.best >= 0 ? value.best : LLONG_MAX;
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const long long other = __shfl_down_sync(kAllLanes, best, unsigned(offset));
    best = other < best ? other : best;
  }
  const math::SoftmaxSums<T, T> own = math::raised(value.sums, max);
  WarpSums sums{{sum_warp(double(own.rest)), sum_warp(double(own.distance)), sum_warp(double(own.weight)),
                 sum_warp(double(own.spread))},
                best};
  if (threadIdx.x % kWarp == 0) warps[warp] = sums;
  __syncthreads();
  for (int w = 1; w < kClassThreads / kWarp && threadIdx.x == 0; ++w) {
    sums.terms = sums.terms + warps[w].terms;
    sums.best = warps[w].best < sums.best ? warps[w].best : sums.best;
  }
  const math::TermSums<double>& all = sums.terms;
  return {{{T(all.rest), T(all.distance), T(all.weight), T(all.spread)}, max},
          sums.best == LLONG_MAX ? -1 : int64_t(sums.best)};
}

// Op: `load(row, c, n, x, w)` fills n <= V classes of a row and their weights; `add(x, w, c, label, n,
// value)` adds them; `label(row)`. Writes parts[row * segments + segment].
template <class Op>
__global__ void __launch_bounds__(kClassThreads)
    sum_rows_kernel(const __grid_constant__ Op op, SegmentSums<typename Op::T>* parts) {
  using T = typename Op::T;
  constexpr int V = kClassPack;
  const ClassShape& shape = op.shape();
  const int64_t segments = segments_of(shape), row = blockIdx.x / segments,
                begin = blockIdx.x % segments * kRowSegment;
  const int64_t end = begin + kRowSegment < shape.classes ? begin + kRowSegment : shape.classes;
  const int64_t label = op.label(row);
  SegmentSums<T> value = no_classes<T>();
  for (int64_t c = begin + int64_t(threadIdx.x) * V; c < end; c += kClassThreads * V) {
    const int n = end - c < V ? int(end - c) : V;
    T x[V], w[V];
    op.load(row, c, n, x, w);
    op.add(x, w, c, label, n, value);
  }
  value = merge_class_block(value);
  if (threadIdx.x == 0) parts[blockIdx.x] = value;
}

// The same with a row for each thread: blocks of kClassThreads rows, segment by segment.
template <class Op>
__global__ void __launch_bounds__(kClassThreads)
    sum_columns_kernel(const __grid_constant__ Op op, SegmentSums<typename Op::T>* parts) {
  using T = typename Op::T;
  const ClassShape& shape = op.shape();
  const int64_t segments = segments_of(shape);
  const int64_t row = int64_t(blockIdx.x / segments) * kClassThreads + threadIdx.x;
  if (row >= shape.rows()) return;
  const int64_t segment = blockIdx.x % segments, begin = segment * kColumnSegment;
  const int64_t end = begin + kColumnSegment < shape.classes ? begin + kColumnSegment : shape.classes;
  const int64_t label = op.label(row);
  SegmentSums<T> value = no_classes<T>();
  for (int64_t c = begin; c < end;) {
    // A few at a time, so that rounding errors do not grow with the number of classes.
    SegmentSums<T> some = no_classes<T>();
    const int64_t last = c + kClassesAtOnce < end ? c + kClassesAtOnce : end;
    for (; c < last; ++c) {
      T x[1], w[1];
      op.load(row, c, 1, x, w);
      op.add(x, w, c, label, 1, some);
    }
    value = merge_segments(value, some);
  }
  parts[row * segments + segment] = value;
}

// The gradient, along rows. Op: `Row prepare(row)`; `write(row, c, n, Row)` writes n <= V classes of it.
// whole: one block a row, since a block that writes over the logits would take the label's from the others.
template <class Op>
__global__ void __launch_bounds__(kClassThreads) walk_rows_kernel(const __grid_constant__ Op op, bool whole) {
  constexpr int V = kClassPack;
  const ClassShape& shape = op.shape();
  const int64_t length = whole ? shape.classes : kRowSegment,
                segments = (shape.classes + length - 1) / length;
  const int64_t row = blockIdx.x / segments, begin = blockIdx.x % segments * length;
  const int64_t end = begin + length < shape.classes ? begin + length : shape.classes;
  const auto prepared = op.prepare(row);
  __syncthreads();
  for (int64_t c = begin + int64_t(threadIdx.x) * V; c < end; c += kClassThreads * V) {
    op.template write<V>(row, c, end - c < V ? int(end - c) : V, prepared);
  }
}

template <class Op>
__global__ void __launch_bounds__(kClassThreads)
    walk_columns_kernel(const __grid_constant__ Op op, bool whole) {
  const ClassShape& shape = op.shape();
  const int64_t length = whole ? shape.classes : kColumnSegment;
  const int64_t segments = (shape.classes + length - 1) / length;
  const int64_t row = int64_t(blockIdx.x / segments) * kClassThreads + threadIdx.x;
  if (row >= shape.rows()) return;
  const int64_t begin = blockIdx.x % segments * length;
  const int64_t end = begin + length < shape.classes ? begin + length : shape.classes;
  const auto prepared = op.prepare(row);
  for (int64_t c = begin; c < end; ++c) op.template write<1>(row, c, 1, prepared);
}

}  // namespace onepass::gpu
