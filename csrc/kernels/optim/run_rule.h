// run_rule.h - runs an update rule over a list of tensors on the CPU. CUDA: rule_source.cuh.
#pragma once

#include "kernels/kernels.h"
#include "loops/tensors/arithmetic.h"
#include "loops/tensors/step.h"

namespace onepass::ONEPASS_ISA {

template <template <class> class Rule, class Options>
void run_rule(const TensorList& list, const RuleStep<Options>* rules, const Tail& tail, int threads) {
  with_arithmetic(list, [&](auto zero) {
    using T = decltype(zero);
    const auto make = [=](int64_t i) { return Rule<T>::make(rules[i].options, rules[i].step); };
    multi_tensor_step<T>(list, threads, tail, make,
                         [=](int64_t i) { return rules[i].template tail<T>(rules[i].step); });
  });
}

}  // namespace onepass::ONEPASS_ISA
