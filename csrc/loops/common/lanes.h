// lanes.h - merges the lanes of a vector pairwise, in a fixed order, on the CPU. Each half is an array of its
// own, so that compilers keep it in registers. One array, whose parts are written and read in different
// widths, takes three times as long.
#pragma once

namespace onepass::ONEPASS_ISA {

template <int kCount, class T, class Merge>
inline auto merge_lanes(const T* lane, const Merge& merge) {
  using Result = decltype(merge(lane[0], lane[0]));
  if constexpr (kCount == 1) {
    return Result(lane[0]);
  } else {
    alignas(64) Result half[kCount / 2];
    for (int l = 0; l < kCount / 2; ++l) half[l] = merge(lane[l], lane[l + kCount / 2]);
    return merge_lanes<kCount / 2>(half, merge);
  }
}

template <int kCount, class T>
inline double sum_lanes(const T* lane) {
  return merge_lanes<kCount>(lane, [](double a, double b) { return a + b; });
}

}  // namespace onepass::ONEPASS_ISA
