// measure.h - the statistics (statistics.h) of one leaf, row by row while it is in the L1 cache, on the CPU.
// CUDA: measure.cuh.
//
// Element i of a row goes to lane i % kMeasureLanes; a row's lanes are added in the arithmetic type, rows and
// lanes in double: the same bits for any number of threads and any instruction set. A row whose squares leave
// the range in which float32 adds them accurately is added once more in double, and searched for what is not
// finite.
#pragma once

#include <cstdint>

#include "core/compiler.h"
#include "loops/tensors/statistics.h"

namespace onepass::ONEPASS_ISA {

constexpr int kMeasureLanes = 32;

template <class T>
struct RowSums {
  alignas(64) T grad[kMeasureLanes] = {}, param[kMeasureLanes] = {}, update[kMeasureLanes] = {},
                lost[kMeasureLanes] = {};
};

// One element's share, in lane l.
template <class Sum, class T>
ONEPASS_HD void add_element(RowSums<Sum>& sums, int l, T before, T after, T grad) {
  math::StatisticsTerm<Sum>::add(before, after, grad, sums.grad[l], sums.param[l], sums.update[l],
                                 sums.lost[l]);
}

template <class Sum, class T>
ONEPASS_WALK void sum_row(RowSums<Sum>& sums, const T* __restrict before, const T* __restrict after,
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
  void add_row(const T* before, const T* after, const T* grad, int64_t n) {
    RowSums<T> row;
    sum_row(row, before, after, grad, n);
    add_sums(row, before, after, grad, n);
  }
  // The same where the row's sums are there already.
  template <class T>
  void add_sums(const RowSums<T>& row, const T* before, const T* after, const T* grad, int64_t n) {
    if (is_accurate(row.grad) && is_accurate(row.param) && is_accurate(row.update)) return add(row);
    RowSums<double> wide;
    sum_row(wide, before, after, grad, n);
    add(wide);
    for (int64_t i = 0; i < n; ++i) nonfinite_ += is_finite(grad[i]) ? 0 : 1;
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
  void add(const RowSums<T>& row) {
    for (int l = 0; l < kMeasureLanes; ++l) {
      sums_.grad[l] += double(row.grad[l]);
      sums_.param[l] += double(row.param[l]);
      sums_.update[l] += double(row.update[l]);
      sums_.lost[l] += double(row.lost[l]);
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

  RowSums<double> sums_;
  double nonfinite_ = 0;
};

}  // namespace onepass::ONEPASS_ISA
