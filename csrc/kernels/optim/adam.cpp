// adam.cpp - Adam, AdamW and AMSGrad on the CPU: math/adam.h over loops/step_rule.h. CUDA: adam.cu.

#include "kernels/kernels.h"
#include "loops/tensors/arithmetic.h"
#include "loops/tensors/step.h"

namespace onepass::ONEPASS_ISA {

void adam(const TensorList& list, const AdamStep* rules, bool amsgrad, const Tail& tail,
          const Launch& launch) {
  with_arithmetic(list, [&](auto zero) {
    using T = decltype(zero);
    const auto plain = [=](int64_t i) { return math::Adam<T>::make(rules[i].options, rules[i].step); };
    const auto with_max = [=](int64_t i) { return math::AmsGrad<T>::make(rules[i].options, rules[i].step); };
    if (amsgrad) {
      multi_tensor<T>(list, launch.threads, tail, rules, with_max);
    } else {
      multi_tensor<T>(list, launch.threads, tail, rules, plain);
    }
  });
}

}  // namespace onepass::ONEPASS_ISA
