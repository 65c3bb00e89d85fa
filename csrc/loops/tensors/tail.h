// tail.h - what a step does in the same pass as the update: the moving average of the parameter, the zeroing
// of the gradient, statistics. CPU: step.h; CUDA: step.cuh.
#pragma once

#include "loops/tensors/statistics.h"
#include "math/clip.h"
#include "math/draws.h"
#include "math/ema.h"

namespace onepass {

struct Tail {
  bool ema = false;        // list kEma is moved towards the updated parameter
  bool zero_grad = false;  // list kGrad is written: zero
  // CUDA: if given, and it says skip, nothing is written but zeros where zero_grad asks for them. On the CPU
  // the caller knows before it calls.
  const math::StepControl* control = nullptr;
  // If given: receives a row for each leaf of the list, in their order.
  StatisticsRow* statistics = nullptr;
  // CPU: the step is skipped, and only statistics are made.
  bool skipped = false;

  bool any() const { return ema || zero_grad || control || statistics; }
};

// What the tail, and rounding by draws, need to know of one rule.
template <class T>
struct RuleTail {
  math::Ema<T> average;
  math::Draws draws;
  double group;  // number of the param group, for the statistics
};

}  // namespace onepass
