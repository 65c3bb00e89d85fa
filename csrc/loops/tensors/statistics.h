// statistics.h - what an update did to each leaf (leaves.h) of the tensors, summed up in the update's own
// pass. CPU: measure.h; CUDA: measure.cuh.
#pragma once

#include "math/statistics.h"

namespace onepass {

struct StatisticsRow {
  math::Statistics sum;
  double group;  // number of the param group that the leaf belongs to
};

}  // namespace onepass
