// adam.cu - Adam, AdamW and AMSGrad on the GPU: math/adam.h over loops/multi_tensor.cuh. CPU: adam.cpp.

#include "kernels/device_scalar.cuh"
#include "kernels/kernels.h"
#include "loops/multi_tensor.cuh"

namespace onepass {
namespace {

// Makes its rule on the device, where the step count or the learning rate is.
template <class Rule>
struct DeviceAdam {
  AdamStep step;
  __device__ Rule make() const {
    math::AdamOptions options = step.options;
    options.lr = gpu::value_of(step.lr, options.lr);
    if (step.control) options.grad_factor = step.control->factor;
    return Rule::make(options, gpu::value_of(step.device_step, step.step));
  }
  __device__ double ema_decay() const { return step.ema_decay; }
};

// Whether a kernel without a tail has to make the rule itself.
bool on_device(const AdamStep& step) { return step.lr.data || step.device_step.data; }

template <class Types, class Rule>
void launch_rule(const TensorList& list, const AdamStep* rules, bool device_rules, const Tail& tail,
                 const Launch& launch) {
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  const auto made_there = [=](int64_t i) { return DeviceAdam<Rule>{rules[i]}; };
  const auto made_here = [=](int64_t i) { return Rule::make(rules[i].options, rules[i].step); };
  if (tail.any()) {
    gpu::multi_tensor_with_tail<Types, Rule>(list, tail, launch.device, stream, made_there);
  } else if (device_rules) {
    gpu::multi_tensor<Types, Rule>(list, launch.device, stream, made_there);
  } else {
    gpu::multi_tensor<Types, Rule>(list, launch.device, stream, made_here);
  }
}

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
  bool device_rules = false;
  for (int64_t i = 0; i < list.count; ++i)
    device_rules = device_rules || on_device(rules[list.items[i].rule]);
  gpu::with_types(list, [&](auto types) {
    using Types = decltype(types);
    using T = typename Types::T;
    if (amsgrad) {
      launch_rule<Types, math::AmsGrad<T>>(list, rules, device_rules, tail, launch);
    } else {
      launch_rule<Types, math::Adam<T>>(list, rules, device_rules, tail, launch);
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
