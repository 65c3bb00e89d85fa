// sgd.cpp - SGD on the CPU: math/sgd.h over loops/step_rule.h. CUDA: sgd.cu.

#include "kernels/kernels.h"
#include "loops/tensors/arithmetic.h"
#include "loops/tensors/step.h"

namespace onepass::ONEPASS_ISA {

void sgd(const TensorList& list, const SgdStep* rules, bool momentum, const Tail& tail,
         const Launch& launch) {
  with_arithmetic(list, [&](auto zero) {
    using T = decltype(zero);
    const auto plain = [=](int64_t i) { return math::Sgd<T>::make(rules[i].options); };
    const auto with_momentum = [=](int64_t i) { return math::SgdMomentum<T>::make(rules[i].options); };
    if (momentum) {
      multi_tensor<T>(list, launch.threads, tail, rules, with_momentum);
    } else {
      multi_tensor<T>(list, launch.threads, tail, rules, plain);
    }
  });
}

}  // namespace onepass::ONEPASS_ISA
