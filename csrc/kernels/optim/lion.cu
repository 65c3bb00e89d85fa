// lion.cu - Lion on the GPU: math/lion.h over loops/tensors/multi_tensor.cuh and step.cuh. CPU: lion.cpp.

#include "kernels/optim/rule_source.cuh"

namespace onepass {

void cuda::lion(const TensorList& list, const RuleStep<math::LionOptions>* rules, bool, const Tail& tail,
                const Launch& launch) {
  gpu::launch_rule<math::Lion>(list, rules, tail, launch);
}

}  // namespace onepass
