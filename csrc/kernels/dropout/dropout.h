// dropout.h - what the kernels of dropout are given: dropout.cpp and dropout.cu.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "loops/elements/places.h"
#include "math/dropout.h"

namespace onepass {

// One call: y = terms of x, with the residual added. x, residual and y have one dtype and lie in memory
// alike; y may be x. The gradient is the same call with other terms, dy for x and dx for y.
struct DropoutCall {
  DropoutPlaces places;
  DType dtype = DType::kFloat32;
  const void* x = nullptr;
  const void* residual = nullptr;  // nullptr: none
  void* y = nullptr;
  double p = 0;
  math::DropoutTerms terms;
  uint64_t seed = 0;
  const int64_t* device_seed = nullptr;  // takes the place of seed
};

}  // namespace onepass
