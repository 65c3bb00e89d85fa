// adam.cu - Adam, AdamW and AMSGrad on the GPU: math/adam.h over loops/tensors/multi_tensor.cuh and step.cuh. CPU:
// adam.cpp.

#include "kernels/optim/rule_source.cuh"

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

void cuda::adam(const TensorList& list, const AdamStep* rules, bool amsgrad, const Tail& tail,
                const Launch& launch) {
  const DeviceGuard guard(launch.device);
  gpu::with_types(list, [&](auto types) {
    using Types = decltype(types);
    using T = typename Types::T;
    if (amsgrad) {
      gpu::launch_rule<Types, math::AmsGrad<T>>(list, rules, tail, launch);
    } else {
      gpu::launch_rule<Types, math::Adam<T>>(list, rules, tail, launch);
    }
  });
}

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
