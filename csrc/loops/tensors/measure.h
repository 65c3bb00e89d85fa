// measure.h - the statistics (statistics.h) of one leaf, strip by strip while it is in the L1 cache, on the
// CPU. CUDA: measure.cuh.
//
// Element i of a strip goes to lane i % kMeasureLanes. A strip's lanes are added in the arithmetic type,
// strips and lanes in double: the same bits for any number of threads and any instruction set. A strip whose
// squares leave the range in which float32 adds them accurately is added again in double, and its elements
// that are not finite are counted.
#pragma once

#include <cstdint>

#include "core/compiler.h"
#include "loops/tensors/statistics.h"

namespace onepass::ONEPASS_ISA {

constexpr int kMeasureLanes = 32;

template <class T>
struct StripSums {
  alignas(64) T grad[kMeasureLanes] = {}, param[kMeasureLanes] = {}, update[kMeasureLanes] = {},
                lost[kMeasureLanes] = {};
};

// One element's share, in lane l.
template <class Sum, class T>
ONEPASS_HD void add_element(StripSums<Sum>& sums, int l, T before, T after, T grad) {
  math::StatisticsTerm<Sum>::add(before, after, grad, sums.grad[l], sums.param[l], sums.update[l],
                                 sums.lost[l]);
}

template <class Sum, class T>
ONEPASS_WALK void sum_strip(StripSums<Sum>& sums, const T* __restrict before, const T* __restrict after,
                            const T* __restrict grad, int64_t n) {
  int64_t i = 0;
  for (; i + kMeasureLanes <= n; i += kMeasureLanes) {
    ONEPASS_INDEPENDENT
    for (int l = 0; l < kMeasureLanes; ++l) add_element(sums, l, before[i + l], after[i + l], grad[i + l]);
  }
  for (int l = 0; i < n; ++i, ++l) add_element(sums, l, before[i], after[i], grad[i]);
}

class LeafMeasure {
 public:
  // before, after: the parameter's value; grad as it is stored.
  template <class T>
  void add_strip(const T* before, const T* after, const T* grad, int64_t n) {
    StripSums<T> strip;
    sum_strip(strip, before, after, grad, n);
    add_sums(strip, before, after, grad, n);
  }
  // The same with sums that were formed already.
  template <class T>
  void add_sums(const StripSums<T>& strip, const T* before, const T* after, const T* grad, int64_t n) {
    if (is_accurate(strip.grad) && is_accurate(strip.param) && is_accurate(strip.update)) return add(strip);
    StripSums<double> wide;
    sum_strip(wide, before, after, grad, n);
    add(wide);
    for (int64_t i = 0; i < n; ++i) nonfinite_ += !is_finite(grad[i]) ? 1 : 0;
  }

  math::Statistics result() const {
    return {total(sums_.grad), total(sums_.param), total(sums_.update), nonfinite_, total(sums_.lost)};
  }

 private:
  template <class T>
  static bool is_accurate(const T* lane) {
    return math::squares_are_accurate(total(lane));
  }
  template <class T>
  void add(const StripSums<T>& strip) {
    for (int l = 0; l < kMeasureLanes; ++l) {
      sums_.grad[l] += double(strip.grad[l]);
      sums_.param[l] += double(strip.param[l]);
      sums_.update[l] += double(strip.update[l]);
      sums_.lost[l] += double(strip.lost[l]);
    }
  }
  // Pairwise, in steps whose lengths the compiler knows.
  template <class T>
  static T total(const T* lane) {
    T sum[kMeasureLanes / 2];
    fold<kMeasureLanes / 2>(lane, sum);
    fold<kMeasureLanes / 4>(sum, sum);
    fold<kMeasureLanes / 8>(sum, sum);
    fold<kMeasureLanes / 16>(sum, sum);
    return sum[0] + sum[1];
  }
  template <int kWidth, class T>
  static void fold(const T* lane, T* sum) {
    for (int l = 0; l < kWidth; ++l) sum[l] = lane[l] + lane[l + kWidth];
  }

  StripSums<double> sums_;
  double nonfinite_ = 0;
};

}  // namespace onepass::ONEPASS_ISA
