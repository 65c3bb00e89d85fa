// sgd.cu - SGD on the GPU: math/sgd.h over loops/tensors/multi_tensor.cuh and step.cuh. CPU: sgd.cpp.

#include "kernels/optim/rule_source.cuh"

namespace onepass {

void cuda::sgd(const TensorList& list, const RuleStep<math::SgdOptions>* rules, bool momentum,
               const Tail& tail, const Launch& launch) {
  if (momentum) {
    gpu::launch_rule<math::SgdMomentum>(list, rules, tail, launch);
  } else {
    gpu::launch_rule<math::Sgd>(list, rules, tail, launch);
  }
}

}  // namespace onepass
