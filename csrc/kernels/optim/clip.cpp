// clip.cpp - the norm of gradients and what follows from it, on the CPU: math/norm.h over
// loops/tensors/reduce.h, math/clip.h over loops/tensors/multi_tensor.h. CUDA: clip.cu.

#include "kernels/kernels.h"
#include "loops/tensors/arithmetic.h"
#include "loops/tensors/reduce.h"

namespace onepass::ONEPASS_ISA {

void norm(const TensorList& list, int which, double p, Leaf* leaves, const Launch& launch) {
  math::with_norm(p, [&](auto norm) { reduce(list, which, norm, leaves, launch.threads); });
}

void decide(const Leaf* leaves, int64_t count, const Decision& decision, StepControl* control,
            const Launch&) {
  math::with_norm(decision.norm_type, [&](auto norm) {
    Leaf all{0, 0};
    for (int64_t i = 0; i < count; ++i) {
      all = {norm.merge(all.value, leaves[i].value), all.nonfinite + leaves[i].nonfinite};
    }
    *control = math::decide(decision.options, norm.norm(all.value), all.nonfinite, decision.host_grad_scale,
                            decision.host_found_inf, control->skipped_steps);
  });
}

void scale(const TensorList& list, const StepControl* control, const Launch& launch) {
  if (control->factor == 1) return;
  with_arithmetic(list, [&](auto zero) {
    using T = decltype(zero);
    const auto rule = [=](int64_t) { return math::Scale<T>{T(control->factor)}; };
    multi_tensor<T>(list, launch.threads, rule);
  });
}

void clamp(const TensorList& list, double limit, const Launch& launch) {
  with_arithmetic(list, [&](auto zero) {
    using T = decltype(zero);
    multi_tensor<T>(list, launch.threads, [=](int64_t) { return math::Clamp<T>{T(limit)}; });
  });
}

}  // namespace onepass::ONEPASS_ISA
