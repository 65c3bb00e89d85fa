// adam.cpp - Adam, AdamW and AMSGrad on the CPU: math/adam.h over loops/multi_tensor.h. CUDA: adam.cu.

#include "kernels/kernels.h"
#include "loops/arithmetic.h"
#include "loops/multi_tensor.h"
#include "loops/tail_rule.h"

namespace onepass::ONEPASS_ISA {

void adam(const TensorList& list, const AdamStep* rules, bool amsgrad, const Tail& tail,
          const Launch& launch) {
  with_arithmetic(list, [&](auto zero) {
    using T = decltype(zero);
    const auto plain = [=](int64_t i) { return math::Adam<T>::make(rules[i].options, rules[i].step); };
    const auto with_max = [=](int64_t i) { return math::AmsGrad<T>::make(rules[i].options, rules[i].step); };
    const auto decay = [=](int64_t i) { return rules[i].ema_decay; };
    if (amsgrad) {
      multi_tensor<T>(list, launch.threads, tail, with_max, decay);
    } else {
      multi_tensor<T>(list, launch.threads, tail, plain, decay);
    }
  });
}

}  // namespace onepass::ONEPASS_ISA
