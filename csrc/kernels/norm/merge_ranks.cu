// merge_ranks.cu - the numbers of all ranks put together, on the GPU: statistics in forward, sums in
// backward. CPU: merge_ranks.cpp.
//
// A thread for each channel merges the ranks in their order, with the operations of the CPU's code.

#include "core/cuda_device.cuh"
#include "core/kernel_compat.cuh"
#include "kernels/kernels.h"
#include "kernels/norm/parameters.cuh"

namespace onepass {
namespace {

constexpr int kMergeThreads = 128;

// Stops the kernel, since nobody on the host looks at what the ranks sent.
__device__ void check_rank(const double* sent, int64_t rank, int64_t channels, double tag) {
  const double found = sent[RankNumbers::kTag];
  if (sent[RankNumbers::kChannels] == double(channels) && (found == tag || found == 0 || tag == 0)) return;
  printf("SyncBatchNorm: rank %lld must be in the same layer, of %lld channels, got %lld%s\n",
         static_cast<long long>(rank), static_cast<long long>(channels),
         static_cast<long long>(sent[RankNumbers::kChannels]), found == tag ? "" : " of another layer");
  __trap();
}

template <class T>
__global__ void __launch_bounds__(kMergeThreads) merge_moments_kernel(const __grid_constant__ BatchNorm op) {
  const RankNumbers at{op.shape.channels};
  const int64_t c = int64_t(blockIdx.x) * kMergeThreads + threadIdx.x;
  if (c >= at.channels) return;
  double total = 0, mean = 0, m2 = 0;
  for (int64_t r = 0; r < op.ranks; ++r) {
    const double *sent = op.gathered + r * op.stride, count = sent[RankNumbers::kCount];
    if (c == 0) check_rank(sent, r, at.channels, op.tag);
    total += count;
    mean += math::mean_term({sent[at.first(c)], sent[at.second(c)]}, count);
  }
  if (c == 0) *op.total = total;
  if (total == 0) {  // nothing to move the running statistics by
    static_cast<T*>(op.mean)[c] = 0;
    static_cast<T*>(op.invstd)[c] = T(math::invstd_of(0, op.eps));
    return;
  }
  mean /= total;
  for (int64_t r = 0; r < op.ranks; ++r) {
    const double* sent = op.gathered + r * op.stride;
    m2 += math::m2_term({sent[at.first(c)], sent[at.second(c)]}, sent[RankNumbers::kCount], mean);
  }
  gpu::use_moments<T>(op, c, mean, m2, total);
}

template <class T>
__global__ void __launch_bounds__(kMergeThreads)
    merge_gradients_kernel(const __grid_constant__ BatchNorm op) {
  const RankNumbers at{op.shape.channels};
  const int64_t c = int64_t(blockIdx.x) * kMergeThreads + threadIdx.x;
  if (c >= at.channels) return;
  math::Pair sums{0, 0};
  for (int64_t r = 0; r < op.ranks; ++r) {
    const double* sent = op.gathered + r * op.stride;
    sums = math::merge(sums, {sent[at.first(c)], sent[at.second(c)]});
  }
  const double invstd = double(static_cast<const T*>(op.invstd)[c]);
  const auto made = math::GradientTerms<T>::make(sums, invstd, *op.total);
  static_cast<T*>(op.terms)[2 * c] = made.mean_g;
  static_cast<T*>(op.terms)[2 * c + 1] = made.slope;
}

// Launches a thread for each channel.
template <class Kernel>
void merge(Kernel wide, Kernel narrow, const BatchNorm& op, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const dim3 grid(unsigned((op.shape.channels + kMergeThreads - 1) / kMergeThreads));
  cuda_check(gpu::launch(op.dtype == DType::kFloat64 ? wide : narrow, grid, dim3(kMergeThreads), 0,
                         static_cast<cudaStream_t>(launch.stream), op),
             "batch_norm");
}

}  // namespace

void cuda::batch_norm_merge_moments(const BatchNorm& op, const Launch& launch) {
  merge(merge_moments_kernel<double>, merge_moments_kernel<float>, op, launch);
}

void cuda::batch_norm_merge_gradients(const BatchNorm& op, const Launch& launch) {
  merge(merge_gradients_kernel<double>, merge_gradients_kernel<float>, op, launch);
}

}  // namespace onepass
