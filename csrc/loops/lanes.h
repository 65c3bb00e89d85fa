// lanes.h - lanes of a vector put together pairwise, on the CPU: a fixed order. Each half is an array of its
// own, so that compilers keep it in registers; through one array, whose parts are written and read in
// different widths, it takes three times as long.
#pragma once

#include "math/cross_entropy.h"

namespace onepass::ONEPASS_ISA {

template <int kCount, class T>
inline T largest_lane(const T* lane) {
  if constexpr (kCount == 1) {
    return lane[0];
  } else {
    alignas(64) T half[kCount / 2];
    for (int l = 0; l < kCount / 2; ++l) half[l] = math::larger(lane[l], lane[l + kCount / 2]);
    return largest_lane<kCount / 2>(half);
  }
}

template <int kCount, class T>
inline double sum_lanes(const T* lane) {
  if constexpr (kCount == 1) {
    return lane[0];
  } else {
    alignas(64) double half[kCount / 2];
    for (int l = 0; l < kCount / 2; ++l) half[l] = double(lane[l]) + double(lane[l + kCount / 2]);
    return sum_lanes<kCount / 2>(half);
  }
}

}  // namespace onepass::ONEPASS_ISA
