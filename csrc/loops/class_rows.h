// class_rows.h - walks along rows of classes that follow each other in memory, on the CPU. Rows of few
// classes, and classes that lie apart: class_columns.h. CUDA: classes.cuh.
//
// A row is cut in leaves of kClassLeaf classes. The first one's maximum is looked for before its sum; the
// others are summed around that, and the row's maximum is found on the way: memory is read once. Class i of a
// leaf, the first label left out, goes to lane i % kClassLanes in T; lanes are merged pairwise in double,
// leaves in their order. The cut depends on the number of classes alone: the same bits for any number of
// threads, also where one row's leaves are shared out.
#pragma once

#include <limits>

#include "loops/channel_rows.h"
#include "loops/class_shape.h"
#include "math/cross_entropy.h"

namespace onepass::ONEPASS_ISA {

constexpr int kClassLanes = 16;
constexpr int kMaxLanes = 64;

template <class T>
using LeafSums = math::SoftmaxSums<T, double>;

template <class T>
constexpr T kLowest = -std::numeric_limits<T>::infinity();

template <class T>
ONEPASS_WALK T largest_class(const T* __restrict x, int64_t n) {
  alignas(64) T lane[kMaxLanes];
  for (int l = 0; l < kMaxLanes; ++l) lane[l] = kLowest<T>;
  int64_t i = 0;
  for (; i + kMaxLanes <= n; i += kMaxLanes) {
    ONEPASS_LANES
    for (int l = 0; l < kMaxLanes; ++l) lane[l] = math::larger(lane[l], x[i + l]);
  }
  for (int l = 0; i < n; ++i, ++l) lane[l] = math::larger(lane[l], x[i]);
  for (int width = kMaxLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] = math::larger(lane[l], lane[l + width]);
  }
  return lane[0];
}

template <class T>
struct ClassLanes {
  alignas(64) T max[kClassLanes];
  alignas(64) T rest[kClassLanes] = {};
  alignas(64) T distance[kClassLanes] = {};
  alignas(64) T weight[kClassLanes] = {};
  alignas(64) T spread[kClassLanes] = {};

  template <class Term>
  ONEPASS_HD void add(const Term& term, int l, T x, T w) {
    max[l] = math::larger(max[l], x);
    term.add(x, w, T(1), rest[l], distance[l], weight[l], spread[l]);
  }
};

// Adds n classes; w: their weights, not read without Share::kGiven.
template <class Term, class T>
ONEPASS_WALK void add_classes(const Term term, const T* __restrict x, const T* __restrict w, int64_t n,
                              ClassLanes<T>& lanes) {
  constexpr bool kGiven = Term::kShareOf == math::Share::kGiven;
  ClassLanes<T> own = lanes;
  int64_t i = 0;
  for (; i + kClassLanes <= n; i += kClassLanes) {
    ONEPASS_LANES
    for (int l = 0; l < kClassLanes; ++l) own.add(term, l, x[i + l], kGiven ? w[i + l] : T(0));
  }
  lanes = own;
  if (i == n) return;
  alignas(64) T last[2][kClassLanes];
  for (int l = 0; l < kClassLanes; ++l) {
    last[0][l] = x[i + l < n ? i + l : i];
    last[1][l] = kGiven ? w[i + l < n ? i + l : i] : T(0);
  }
  ONEPASS_LANES
  for (int l = 0; l < kClassLanes; ++l) own.add(term, l, last[0][l], last[1][l]);
  for (int l = 0; i < n; ++i, ++l) {
    lanes.max[l] = own.max[l];
    lanes.rest[l] = own.rest[l];
    lanes.distance[l] = own.distance[l];
    lanes.weight[l] = own.weight[l];
    lanes.spread[l] = own.spread[l];
  }
}

template <class T>
inline double sum_lanes(const T* lane) {
  double wide[kClassLanes];
  for (int l = 0; l < kClassLanes; ++l) wide[l] = double(lane[l]);
  for (int width = kClassLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) wide[l] += wide[l + width];
  }
  return wide[0];
}

// The sums of a leaf of n classes as counted from `shift`, and the leaf's maximum. w: anything without
// Share::kGiven. label: its place in the leaf; outside of it there is none.
template <class T, math::Share kShare, bool kSpread>
inline LeafSums<T> sums_around(T shift, const T* x, const T* w, int64_t n, int64_t label, T& max) {
  const math::SoftmaxTerm<T, kShare, kSpread> term{math::shift_of(shift)};
  ClassLanes<T> lanes;
  for (int l = 0; l < kClassLanes; ++l) lanes.max[l] = kLowest<T>;
  const bool inside = label >= 0 && label < n;
  add_classes(term, x, w, inside ? label : n, lanes);
  if (inside) add_classes(term, x + label + 1, w + label + 1, n - label - 1, lanes);
  max = lanes.max[0];
  for (int l = 1; l < kClassLanes; ++l) max = math::larger(max, lanes.max[l]);
  double weight = kShare == math::Share::kEqual ? double(n) : sum_lanes(lanes.weight);
  double rest = sum_lanes(lanes.rest), distance = sum_lanes(lanes.distance), spread = sum_lanes(lanes.spread);
  if (inside) {
    double unused = 0, of_weight = kShare == math::Share::kEqual ? 0 : weight;
    const math::SoftmaxTerm<double, kShare, false> wide{double(term.shift)};
    wide.add(double(x[label]), kShare == math::Share::kGiven ? double(w[label]) : 0, 0, unused, distance,
             of_weight, unused);
    if (kShare == math::Share::kGiven) weight = of_weight;
    max = math::larger(max, x[label]);
  }
  return {shift, rest, distance, weight, spread};
}

// The same as counted from the larger one of shift, which is a logit of the row, and the leaf's maximum.
// Memory is read once where the leaf's maximum is not far above the shift; else the leaf is summed again.
template <class T, math::Share kShare, bool kSpread>
inline LeafSums<T> reduce_leaf(T shift, const T* x, const T* w, int64_t n, int64_t label) {
  T max;
  const LeafSums<T> sums = sums_around<T, kShare, kSpread>(shift, x, w, n, label, max);
  if (max <= shift) return sums;
  if (max - shift <= 1) return math::raised(sums, max);
  return sums_around<T, kShare, kSpread>(max, x, w, n, label, max);
}

template <math::Share kShare, class T>
ONEPASS_WALK void walk_classes(const math::RowGradient<T> row, const T* x, const T* __restrict w, T* out,
                               int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) {
    out[i] = row.template at<kShare != math::Share::kNone>(x[i], kShare == math::Share::kGiven ? w[i] : T(1));
  }
}

template <class T>
ONEPASS_WALK void smooth_classes(const T* y, const T* w, T kept, T share, T* out, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) out[i] = math::smoothed(y[i], w[i], kept, share);
}

}  // namespace onepass::ONEPASS_ISA
