// clip.cu - the norm of gradients and what follows from it, on the GPU: math/norm.h over
// loops/tensors/reduce.cuh, math/clip.h over loops/tensors/multi_tensor.cuh. CPU: clip.cpp.

#include "kernels/kernels.h"
#include "kernels/optim/device_scalar.cuh"
#include "loops/tensors/multi_tensor.cuh"
#include "loops/tensors/reduce.cuh"

namespace onepass {
namespace {

template <class Norm>
__global__ void __launch_bounds__(gpu::kReduceThreads)
    decide_kernel(const Norm norm, const Leaf* leaves, int64_t count, const Decision decision,
                  StepControl* control) {
  const Leaf all = gpu::combine(norm, leaves, count);
  if (threadIdx.x != 0) return;
  *control = math::decide(decision.options, norm.norm(all.value), all.nonfinite,
                          gpu::value_of(decision.grad_scale, decision.host_grad_scale),
                          gpu::value_of(decision.found_inf, decision.host_found_inf), control->skipped_steps);
}

// Reads the factor that decide_kernel has written.
template <class T>
struct DeviceScale {
  const StepControl* control;
  __device__ math::Scale<T> make() const { return {T(control->factor)}; }
};

// Calls run(Types) for a list that has one kind of tensor, the parameter, and no states.
template <class Run>
void with_types_of_one(const TensorList& list, const Run& run) {
  TensorList one = list;
  one.dtype[kFirstState] = list.dtype[kParam];
  gpu::with_types(one, run);
}

}  // namespace

void cuda::norm(const TensorList& list, int which, double p, Leaf* leaves, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  math::with_norm(p, [&](auto norm) { gpu::reduce(list, which, norm, leaves, stream); });
}

void cuda::decide(const Leaf* leaves, int64_t count, const Decision& decision, StepControl* control,
                  const Launch& launch) {
  const DeviceGuard guard(launch.device);
  math::with_norm(decision.norm_type, [&](auto norm) {
    cuda_check(gpu::launch(decide_kernel<decltype(norm)>, dim3(1), dim3(gpu::kReduceThreads), 0,
                           static_cast<cudaStream_t>(launch.stream), norm, leaves, count, decision, control),
               "decide");
  });
}

void cuda::scale(const TensorList& list, const StepControl* control, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  with_types_of_one(list, [&](auto types) {
    using Types = decltype(types);
    using Rule = math::Scale<typename Types::T>;
    gpu::multi_tensor<Types, Rule>(list, launch.device, static_cast<cudaStream_t>(launch.stream),
                                   [=](int64_t) { return DeviceScale<typename Types::T>{control}; });
  });
}

void cuda::clamp(const TensorList& list, double limit, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  with_types_of_one(list, [&](auto types) {
    using Types = decltype(types);
    using Rule = math::Clamp<typename Types::T>;
    gpu::multi_tensor<Types, Rule>(list, launch.device, static_cast<cudaStream_t>(launch.stream),
                                   [=](int64_t) { return Rule{typename Types::T(limit)}; });
  });
}

}  // namespace onepass
