// lion.cpp - Lion on the CPU: math/lion.h over loops/tensors/step.h. CUDA: lion.cu.

#include "kernels/optim/run_rule.h"

namespace onepass::ONEPASS_ISA {

void lion(const TensorList& list, const RuleStep<math::LionOptions>* rules, bool, const Tail& tail,
          const Launch& launch) {
  run_rule<math::Lion>(list, rules, tail, launch.threads);
}

}  // namespace onepass::ONEPASS_ISA
