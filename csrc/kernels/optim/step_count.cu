// step_count.cu - counts steps on the GPU, for all optimizers. On the CPU the host counts
// (bind/optim/step_count.h).

#include "core/cuda_device.cuh"
#include "kernels/kernels.h"
#include "loops/tensors/multi_tensor.cuh"

namespace onepass {
namespace {

constexpr int kMaxSteps = 4000;

struct StepTable {
  int32_t count;
  const StepControl* control;
  float* step[kMaxSteps];
};

__global__ void __launch_bounds__(gpu::kThreads) increment_kernel(const __grid_constant__ StepTable table) {
  const unsigned i = blockIdx.x * gpu::kThreads + threadIdx.x;
  if (table.control && table.control->skip != 0) return;
  if (i < unsigned(table.count)) *table.step[i] += 1;
}

}  // namespace

void cuda::increment(float* const* counts, int64_t count, const StepControl* control, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  for (int64_t first = 0; first < count; first += kMaxSteps) {
    StepTable table;
    table.control = control;
    table.count = int32_t(count - first < kMaxSteps ? count - first : kMaxSteps);
    for (int32_t i = 0; i < table.count; ++i) table.step[i] = counts[first + i];
    const unsigned blocks = unsigned(table.count + gpu::kThreads - 1) / gpu::kThreads;
    cuda_check(gpu::launch(increment_kernel, dim3(blocks), dim3(gpu::kThreads), 0,
                           static_cast<cudaStream_t>(launch.stream), table),
               "increment");
  }
}

}  // namespace onepass
