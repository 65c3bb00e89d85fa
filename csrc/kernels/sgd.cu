// sgd.cu - SGD on the GPU: math/sgd.h over loops/multi_tensor.cuh. CPU: sgd.cpp.

#include "kernels/device_scalar.cuh"
#include "kernels/kernels.h"
#include "loops/multi_tensor.cuh"

namespace onepass {
namespace {

// Makes its rule on the device, where the learning rate is.
template <class Rule>
struct DeviceSgd {
  SgdStep step;
  __device__ Rule make() const {
    math::SgdOptions options = step.options;
    options.lr = gpu::value_of(step.lr, options.lr);
    if (step.control) options.grad_factor = step.control->factor;
    return Rule::make(options);
  }
  __device__ double ema_decay() const { return step.ema_decay; }
};

template <class Types, class Rule>
void launch_rule(const TensorList& list, const SgdStep* rules, bool device_rules, const Tail& tail,
                 const Launch& launch) {
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  const auto made_there = [=](int64_t i) { return DeviceSgd<Rule>{rules[i]}; };
  const auto made_here = [=](int64_t i) { return Rule::make(rules[i].options); };
  if (tail.any()) {
    gpu::multi_tensor_with_tail<Types, Rule>(list, tail, launch.device, stream, made_there);
  } else if (device_rules) {
    gpu::multi_tensor<Types, Rule>(list, launch.device, stream, made_there);
  } else {
    gpu::multi_tensor<Types, Rule>(list, launch.device, stream, made_here);
  }
}

}  // namespace

void cuda::sgd(const TensorList& list, const SgdStep* rules, bool momentum, const Tail& tail,
               const Launch& launch) {
  const DeviceGuard guard(launch.device);
  bool device_rules = false;
  for (int64_t i = 0; i < list.count; ++i) device_rules = device_rules || rules[list.items[i].rule].lr.data;
  gpu::with_types(list, [&](auto types) {
    using Types = decltype(types);
    using T = typename Types::T;
    if (momentum) {
      launch_rule<Types, math::SgdMomentum<T>>(list, rules, device_rules, tail, launch);
    } else {
      launch_rule<Types, math::Sgd<T>>(list, rules, device_rules, tail, launch);
    }
  });
}

}  // namespace onepass
