// statistics.cu - the statistics of param groups from those of leaves: math/statistics.h. CPU:
// statistics.cpp.

#include "core/cuda_device.cuh"
#include "kernels/kernels.h"
#include "kernels/optim/device_scalar.cuh"
#include "loops/common/block.cuh"

namespace onepass {
namespace {

// One block for each group. Each looks through all rows, which are few compared with the elements they stand
// for.
__global__ void __launch_bounds__(gpu::kReduceThreads)
    gather_kernel(const StatisticsRow* rows, int64_t count, GroupStatistics* groups, double host_grad_scale,
                  const DeviceScalar grad_scale) {
  math::Statistics sum{};
  for (int64_t i = threadIdx.x; i < count; i += gpu::kReduceThreads) {
    if (rows[i].group == double(blockIdx.x)) sum = math::merge(sum, rows[i].sum);
  }
  const auto add = [](double a, double b) { return a + b; };
  sum = {gpu::merge_block(sum.grad_square, add), gpu::merge_block(sum.param_square, add),
         gpu::merge_block(sum.update_square, add), gpu::merge_block(sum.nonfinite, add),
         gpu::merge_block(sum.lost, add)};
  if (threadIdx.x == 0) {
    groups[blockIdx.x] = math::conclude(sum, gpu::value_of(grad_scale, host_grad_scale));
  }
}

}  // namespace

void cuda::gather_statistics(const StatisticsRow* rows, int64_t count, GroupStatistics* groups,
                             int64_t group_count, double host_grad_scale, DeviceScalar grad_scale,
                             const Launch& launch) {
  const DeviceGuard guard(launch.device);
  cuda_check(
      gpu::launch(gather_kernel, dim3(unsigned(group_count)), dim3(gpu::kReduceThreads), 0,
                  static_cast<cudaStream_t>(launch.stream), rows, count, groups, host_grad_scale, grad_scale),
      "gather_statistics");
}

}  // namespace onepass
