// rule_source.cuh - where the GPU's optimizer kernels get their rules from: made on the host if everything is
// known there, else in the kernel. CPU: run_rule.h.
#pragma once

#include "kernels/kernels.h"
#include "kernels/optim/device_scalar.cuh"
#include "loops/tensors/step.cuh"

namespace onepass::gpu {

// Makes the rule on the device, which may have the step count, the learning rate or the gradients' factor.
template <class Rule, class Step>
struct DeviceRule {
  Step step;
  template <class T>
  __device__ RuleTail<T> tail() const {
    return step.template tail<T>(value_of(step.device_step, step.step));
  }
  __device__ Rule make() const {
    Step now = step;
    now.options.lr = value_of(step.lr, step.options.lr);
    now.step = value_of(step.device_step, step.step);
    if (step.control) now.options.grad_factor = step.control->factor;
    return Rule::make(now.options, now.step);
  }
};

// Whether the host knows everything that the rules of a list are made of.
template <class Step>
bool known_on_host(const TensorList& list, const Step* rules) {
  for (int64_t i = 0; i < list.count; ++i) {
    const Step& step = rules[list.items[i].rule];
    if (step.lr.data || step.device_step.data) return false;
  }
  return true;
}

template <class Types, class Rule, class Step>
void launch_typed(const TensorList& list, const Step* rules, const Tail& tail, const Launch& launch) {
  const auto stream = static_cast<cudaStream_t>(launch.stream);
  const bool plain = !tail.any() && list.storage == Storage::kNearest;
  if (plain && known_on_host(list, rules)) {
    return multi_tensor<Types, Rule>(list, launch.device, stream,
                                     [=](int64_t i) { return Rule::make(rules[i].options, rules[i].step); });
  }
  multi_tensor_step<Types, Rule>(list, tail, launch.device, stream,
                                 [=](int64_t i) { return DeviceRule<Rule, Step>{rules[i]}; });
}

// Launches the rule in the arithmetic type of the list.
template <template <class> class Rule, class Step>
void launch_rule(const TensorList& list, const Step* rules, const Tail& tail, const Launch& launch) {
  const DeviceGuard guard(launch.device);
  with_types(list, [&](auto types) {
    using Types = decltype(types);
    launch_typed<Types, Rule<typename Types::T>>(list, rules, tail, launch);
  });
}

}  // namespace onepass::gpu
