// arithmetic.h - the type kernels compute in: double for float64 parameters, float for all others.
#pragma once

#include "loops/tensors/tensor_list.h"

namespace onepass::ONEPASS_ISA {

// Calls run(a value of that type).
template <class Run>
inline void with_arithmetic(const TensorList& list, const Run& run) {
  if (list.dtype[kParam] == DType::kFloat64) {
    run(double{});
  } else {
    run(float{});
  }
}

}  // namespace onepass::ONEPASS_ISA
