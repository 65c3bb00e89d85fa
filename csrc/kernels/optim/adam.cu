// adam.cu - Adam, AdamW and AMSGrad on the GPU: math/adam.h over loops/tensors/multi_tensor.cuh and step.cuh.
// CPU: adam.cpp.

#include "kernels/optim/rule_source.cuh"

namespace onepass {

void cuda::adam(const TensorList& list, const RuleStep<math::AdamOptions>* rules, bool amsgrad,
                const Tail& tail, const Launch& launch) {
  if (amsgrad) {
    gpu::launch_rule<math::AmsGrad>(list, rules, tail, launch);
  } else {
    gpu::launch_rule<math::Adam>(list, rules, tail, launch);
  }
}

}  // namespace onepass
