// sgd.cu - SGD on the GPU: math/sgd.h over loops/tensors/multi_tensor.cuh and step.cuh. CPU: sgd.cpp.

#include "kernels/optim/rule_source.cuh"

namespace onepass {

void cuda::sgd(const TensorList& list, const SgdStep* rules, bool momentum, const Tail& tail,
               const Launch& launch) {
  const DeviceGuard guard(launch.device);
  gpu::with_types(list, [&](auto types) {
    using Types = decltype(types);
    using T = typename Types::T;
    if (momentum) {
      gpu::launch_rule<Types, math::SgdMomentum<T>>(list, rules, tail, launch);
    } else {
      gpu::launch_rule<Types, math::Sgd<T>>(list, rules, tail, launch);
    }
  });
}

}  // namespace onepass
