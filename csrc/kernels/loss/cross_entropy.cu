// cross_entropy.cu - the cross-entropy loss on the GPU: math/cross_entropy.h over loops/classes/classes.cuh.
// CPU: cross_entropy.cpp.
//
// Forward: sums of the rows' segments, what follows from them for each row, and the totals; it reads the
// logits once. Backward: one launch that reads them once and writes the gradient. Templates depend on the
// stored type only; what else a call may ask for is the same for all threads.

#include <cstdio>

#include "kernels/kernels.h"
#include "loops/classes/classes.cuh"

namespace onepass {
namespace {

using math::RowLabels;
using math::Share;

__device__ __forceinline__ double element(DType dtype, const void* list, int64_t i) {
  double value = 0;
  gpu::with_typed(dtype, list, [&](auto* typed) { value = double(gpu::widen(typed[i])); });
  return value;
}

// Stops the kernel, as torch does.
__device__ __forceinline__ void refuse(const char* name, int64_t label, int64_t row, int64_t classes) {
  printf("cross_entropy: %s must be 0 to %lld or ignore_index, got %lld in row %lld\n", name,
         static_cast<long long>(classes - 1), static_cast<long long>(label), static_cast<long long>(row));
  __trap();
}

// What forward and backward have in common.
template <class S>
struct Work {
  using T = gpu::arithmetic<S>;
  CrossEntropy op;
  Share share;

  __host__ __device__ const ClassShape& shape() const { return op.shape; }
  __device__ T logit(int64_t row, int64_t c) const {
    return T(gpu::widen(static_cast<const S*>(op.x)[op.shape.index(row, c)]));
  }
  __device__ T share_of_class() const { return T(op.options.smoothing / double(op.shape.classes)); }

  // Weights of n classes of a row.
  template <int V>
  __device__ void weights(int64_t row, int64_t c, int n, T (&w)[V]) const {
#pragma unroll
    for (int v = 0; v < V; ++v) w[v] = T(1);
    if (share != Share::kGiven) return;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (v >= n) break;
      if (op.weight) w[v] = T(element(op.weight_dtype, op.weight, c + v));
      if (!op.probabilities) continue;
      const T y = T(element(op.probabilities_dtype, op.probabilities, op.shape.index(row, c + v)));
      w[v] = math::smoothed(y, w[v], T(1 - op.options.smoothing), share_of_class());
    }
  }

  __device__ int64_t checked(const char* name, const int64_t* labels, int64_t row) const {
    const int64_t label = labels[row];
    if (label == op.ignore_index) return -1;
    if (label < 0 || label >= op.shape.classes) refuse(name, label, row, op.shape.classes);
    return label;
  }
  __device__ RowLabels<T> labels(int64_t row, double all_weights, T total) const {
    if (!op.target) return RowLabels<T>::of_probabilities(total);
    const int64_t a = checked("target", op.target, row),
                  b = op.second ? checked("target2", op.second, row) : -1;
    const double lam = !op.second ? 1
                       : op.lams  ? double(static_cast<const T*>(op.lams)[row / op.lam_rows])
                                  : op.lam;
    return RowLabels<T>::make(
        a, lam, b, 1 - lam, op.options, double(op.shape.classes), all_weights,
        [this](int64_t c) { return op.weight ? element(op.weight_dtype, op.weight, c) : 1.0; });
  }
  // The label whose class the sums leave out.
  __device__ int64_t label(int64_t row) const { return labels(row, 1, T(1)).first; }
};

template <class S>
struct Forward : Work<S> {
  using T = gpu::arithmetic<S>;

  template <int V>
  __device__ void load(int64_t row, int64_t c, int n, T (&x)[V], T (&w)[V]) const {
    gpu::load_part(static_cast<const S*>(this->op.x) + this->op.shape.index(row, c), n, x, -T(INFINITY));
    this->weights(row, c, n, w);
  }
  template <int V>
  __device__ void add(const T (&x)[V], const T (&w)[V], int64_t c, int64_t label, int n,
                      gpu::SegmentSums<T>& value) const {
    T max = value.sums.max;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (x[v] > max) {
        max = x[v];
        value.best = c + v;
      }
    }
    if (max > value.sums.max) value.sums = math::raised(value.sums, max);
    const T shift = math::shift_of(max);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (v >= n) break;
      const T kept = c + v == label ? T(0) : T(1);
      if (this->share == Share::kNone) {
        const math::SoftmaxTerm<T, Share::kNone, true> term{shift};
        term.add(x[v], w[v], kept, value.sums);
      } else {
        const math::SoftmaxTerm<T, Share::kGiven, true> term{shift};
        term.add(x[v], w[v], kept, value.sums);
      }
    }
  }
};

// Adds up the totals of a block of rows in thread 0: totals[k] = sum of value(k) over the threads.
template <class Value>
__device__ __forceinline__ void add_up(double* totals, int count, const Value& value) {
  for (int k = 0; k < count; ++k) {
    const bool largest = k == kLargest;
    const double all =
        gpu::merge_block(value(k), [&](double a, double b) { return largest ? math::larger(a, b) : a + b; });
    if (threadIdx.x == 0) totals[k] = all;
  }
}

// What a row adds to the totals.
struct RowTotals {
  bool counts;
  double loss, weight, correct, entropy, confidence, largest;

  __device__ double at(int k) const {
    if (k == kLargest) return counts ? largest : -double(INFINITY);
    if (!counts || k == kAllWeights) return 0;
    if (k == kLossSum) return loss;
    if (k == kWeightSum) return weight;
    if (k == kCounted) return 1;
    if (k == kCorrect) return correct;
    if (k == kEntropy) return entropy;
    if (!(confidence >= 0)) return 0;
    const int scaled = int(confidence * kBinCount), bin = scaled < kBinCount ? scaled : kBinCount - 1;
    if ((k - kBins) % kBinCount != bin) return 0;
    return k < kBins + kBinCount ? 1 : k < kBins + 2 * kBinCount ? correct : confidence;
  }
};

template <class S>
__device__ __forceinline__ RowTotals finish_row(const Work<S>& work, int64_t r,
                                                const gpu::SegmentSums<gpu::arithmetic<S>>* parts,
                                                double* totals) {
  using T = gpu::arithmetic<S>;
  const CrossEntropy& op = work.op;
  const int64_t segments = gpu::segments_of(op.shape);
  gpu::SegmentSums<T> found = parts[r * segments];
  for (int64_t k = 1; k < segments; ++k) found = gpu::merge_segments(found, parts[r * segments + k]);
  const math::SoftmaxSums<T, T> sums = math::settled(found.sums);
  static_cast<T*>(op.max)[r] = sums.max;
  static_cast<T*>(op.rest)[r] = sums.rest;
  if (op.total) static_cast<T*>(op.total)[r] = sums.weight;
  const double all_weights = work.share == Share::kNone ? double(op.shape.classes) : double(sums.weight);
  if (r == 0) totals[kAllWeights] = all_weights;
  const RowLabels<T> labels = work.labels(r, all_weights, sums.weight);
  const bool has_label = labels.first >= 0;
  const T x_t = has_label ? work.logit(r, labels.first) : sums.max;
  const T x_u = labels.second >= 0 ? work.logit(r, labels.second) : sums.max;
  const auto row = math::RowSoftmax<T>::make(sums.max, sums.rest, x_t, has_label);
  const T loss = !labels.counts ? T(0)
                                : math::row_loss(row, labels.target, x_t, x_u, sums.distance, sums.weight,
                                                 T(op.options.z_loss));
  if (op.reduction == Reduction::kNone) static_cast<T*>(op.loss)[r] = loss;
  double correct = 0;
  if (op.target) {
    correct = labels.correctness(found.best);
  } else if (op.statistics && found.best >= 0) {
    correct = element(op.probabilities_dtype, op.probabilities, op.shape.index(r, found.best));
  }
  return {labels.counts,
          double(loss),
          double(labels.target.weight),
          correct,
          double(row.entropy(sums.spread, x_t)),
          double(row.confidence()),
          double(sums.max)};
}

template <class S>
__global__ void __launch_bounds__(gpu::kClassThreads)
    finish_rows_kernel(const __grid_constant__ Work<S> work,
                       const gpu::SegmentSums<gpu::arithmetic<S>>* parts, double* blocks) {
  const int64_t r = int64_t(blockIdx.x) * gpu::kClassThreads + threadIdx.x;
  RowTotals own{};
  if (r < work.op.shape.rows()) own = finish_row(work, r, parts, work.op.totals);
  add_up(blocks + blockIdx.x * kTotals, work.op.statistics ? kTotals : kAllWeights,
         [&](int k) { return own.at(k); });
}

// One block: the totals of all, and the loss they make.
template <class T>
__global__ void __launch_bounds__(gpu::kClassThreads)
    conclude_kernel(const __grid_constant__ CrossEntropy op, const double* blocks, int64_t count) {
  KERNEL_SMEM(double, all, [kTotals]);
  add_up(all, op.statistics ? kTotals : kAllWeights, [&](int k) {
    double own = k == kLargest ? -double(INFINITY) : 0;
    for (int64_t b = threadIdx.x; b < count; b += gpu::kClassThreads) {
      const double part = blocks[b * kTotals + k];
      own = k == kLargest ? math::larger(own, part) : own + part;
    }
    return own;
  });
  if (threadIdx.x != 0) return;
  if (op.probabilities) all[kWeightSum] = double(op.shape.rows());
  for (int k = 0; k < (op.statistics ? kTotals : kAllWeights); ++k) {
    if (k != kAllWeights) op.totals[k] = all[k];
  }
  if (op.reduction == Reduction::kNone) return;
  const double sum = all[kLossSum];
  *static_cast<T*>(op.loss) = T(op.reduction == Reduction::kMean ? sum / all[kWeightSum] : sum);
}

template <class S>
struct Backward : Work<S> {
  using T = gpu::arithmetic<S>;
  struct Row {
    int64_t first, second;
    math::RowGradient<T> gradient;
  };

  __device__ Row prepare(int64_t r) const {
    const CrossEntropy& op = this->op;
    const T max = static_cast<const T*>(op.max)[r], rest = static_cast<const T*>(op.rest)[r];
    const RowLabels<T> labels =
        this->labels(r, op.totals[kAllWeights], op.total ? static_cast<const T*>(op.total)[r] : T(0));
    if (!labels.counts) return {-1, -1, math::RowGradient<T>::none()};
    const T x_t = labels.first >= 0 ? this->logit(r, labels.first) : max;
    const auto row = math::RowSoftmax<T>::make(max, rest, x_t, labels.first >= 0);
    const T* grads = static_cast<const T*>(op.grad);
    const T grad = op.reduction == Reduction::kNone  ? grads[r]
                   : op.reduction == Reduction::kSum ? grads[0]
                                                     : T(double(grads[0]) / op.totals[kWeightSum]);
    return {labels.first, labels.second,
            math::RowGradient<T>::make(row, labels.target, grad, T(op.options.z_loss))};
  }
  template <int V>
  __device__ void write(int64_t r, int64_t c, int n, const Row& row) const {
    T x[V], w[V];
    const int64_t index = this->op.shape.index(r, c);
    gpu::load_part(static_cast<const S*>(this->op.x) + index, n, x);
    this->weights(r, c, n, w);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      x[v] = this->share == Share::kNone ? row.gradient.template at<false>(x[v], w[v])
                                         : row.gradient.template at<true>(x[v], w[v]);
      if (c + v == row.first) x[v] = row.gradient.first;
      if (c + v == row.second) x[v] += row.gradient.second;
    }
    gpu::store_part(static_cast<S*>(this->op.dx) + index, n, x);
  }
};

template <class S>
__global__ void __launch_bounds__(gpu::kClassThreads) exponential_kernel(const S* x, S* y, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * gpu::kClassThreads + threadIdx.x;
  if (i < n) y[i] = math::exponential(x[i]);
}

int64_t row_blocks(const ClassShape& shape) {
  return (shape.rows() + gpu::kClassThreads - 1) / gpu::kClassThreads;
}

// Blocks of a walk whose rows are cut in `segments` segments.
dim3 grid_of(const ClassShape& shape, int64_t segments) {
  return dim3(unsigned((shape.walks_columns() ? row_blocks(shape) : shape.rows()) * segments));
}

}  // namespace

int64_t cuda::cross_entropy_workspace(const ClassShape& shape, bool, int) {
  const int64_t part = int64_t(sizeof(gpu::SegmentSums<double>) / sizeof(double));
  return shape.rows() * gpu::segments_of(shape) * part + row_blocks(shape) * kTotals;
}

void cuda::cross_entropy_forward(const CrossEntropy& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  const ClassShape& shape = op.shape;
  const dim3 threads(gpu::kClassThreads), by_rows(unsigned(row_blocks(shape)));
  double* blocks = op.workspace;
  const auto start = [&](auto kernel, dim3 grid, const auto&... args) {
    cuda_check(gpu::launch(kernel, grid, threads, 0, stream, args...), "cross_entropy");
  };
  gpu::with_stored(op.dtype, [&](auto stored) {
    using S = decltype(stored);
    Forward<S> work;
    work.op = op;
    work.share = op.share();
    auto* parts =
        reinterpret_cast<gpu::SegmentSums<gpu::arithmetic<S>>*>(op.workspace + row_blocks(shape) * kTotals);
    const dim3 grid = grid_of(shape, gpu::segments_of(shape));
    if (shape.walks_columns()) {
      start(gpu::sum_columns_kernel<Forward<S>>, grid, work, parts);
    } else {
      start(gpu::sum_rows_kernel<Forward<S>>, grid, work, parts);
    }
    start(finish_rows_kernel<S>, by_rows, static_cast<const Work<S>&>(work), parts, blocks);
    start(conclude_kernel<gpu::arithmetic<S>>, dim3(1), op, blocks, row_blocks(shape));
  });
}

void cuda::cross_entropy_backward(const CrossEntropy& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  gpu::with_stored(op.dtype, [&](auto stored) {
    using Op = Backward<decltype(stored)>;
    Op work;
    work.op = op;
    work.share = op.share();
    const bool whole = op.dx == op.x;
    const dim3 grid = grid_of(op.shape, whole ? 1 : gpu::segments_of(op.shape));
    const auto kernel = op.shape.walks_columns() ? gpu::walk_columns_kernel<Op> : gpu::walk_rows_kernel<Op>;
    cuda_check(gpu::launch(kernel, grid, dim3(gpu::kClassThreads), 0, stream, work, whole), "cross_entropy");
  });
}

void cuda::exponential(DType dtype, const void* x, void* y, int64_t n, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  const dim3 grid(unsigned((n + gpu::kClassThreads - 1) / gpu::kClassThreads)), threads(gpu::kClassThreads);
  const auto start = [&](auto* from) {
    using S = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
    cuda_check(gpu::launch(exponential_kernel<S>, grid, threads, 0, stream, from, static_cast<S*>(y), n),
               "exponential");
  };
  dtype == DType::kFloat64 ? start(static_cast<const double*>(x)) : start(static_cast<const float*>(x));
}

}  // namespace onepass
