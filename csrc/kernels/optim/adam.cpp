// adam.cpp - Adam, AdamW and AMSGrad on the CPU: math/adam.h over loops/tensors/step.h. CUDA: adam.cu.

#include "kernels/optim/run_rule.h"

namespace onepass::ONEPASS_ISA {

void adam(const TensorList& list, const RuleStep<math::AdamOptions>* rules, bool amsgrad, const Tail& tail,
          const Launch& launch) {
  if (amsgrad) {
    run_rule<math::AmsGrad>(list, rules, tail, launch.threads);
  } else {
    run_rule<math::Adam>(list, rules, tail, launch.threads);
  }
}

}  // namespace onepass::ONEPASS_ISA
