// measure.cuh - the statistics (statistics.h) of what one block updates, on the GPU. CPU: measure.h.
//
// Each thread adds up its own elements in double; threads are merged as block.cuh does it.
#pragma once

#include "loops/common/block.cuh"
#include "loops/tensors/statistics.h"

namespace onepass::gpu {

struct ThreadMeasure {
  double grad = 0, param = 0, update = 0;
  int nonfinite = 0, lost = 0;

  template <class T>
  __device__ __forceinline__ void add(T before, T after, T g) {
    math::StatisticsTerm<double, int>::add(before, after, g, grad, param, update, lost);
    nonfinite += !is_finite(g) ? 1 : 0;
  }

  // The statistics of the block, in thread 0. Every thread of the block must call it.
  __device__ __forceinline__ math::Statistics merge() const {
    const auto sum = [](double a, double b) { return a + b; };
    return {merge_block(grad, sum), merge_block(param, sum), merge_block(update, sum),
            merge_block(double(nonfinite), sum), merge_block(double(lost), sum)};
  }
};

}  // namespace onepass::gpu
