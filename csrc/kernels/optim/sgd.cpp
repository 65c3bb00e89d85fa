// sgd.cpp - SGD on the CPU: math/sgd.h over loops/tensors/step.h. CUDA: sgd.cu.

#include "kernels/optim/run_rule.h"

namespace onepass::ONEPASS_ISA {

void sgd(const TensorList& list, const RuleStep<math::SgdOptions>* rules, bool momentum, const Tail& tail,
         const Launch& launch) {
  if (momentum) {
    run_rule<math::SgdMomentum>(list, rules, tail, launch.threads);
  } else {
    run_rule<math::Sgd>(list, rules, tail, launch.threads);
  }
}

}  // namespace onepass::ONEPASS_ISA
