// class_rows.h - walks along rows of classes that follow each other in memory, on the CPU. Rows of few classes,
// and classes that lie apart: class_columns.h. CUDA: classes.cuh.
//
// A row is cut in leaves of kClassLeaf classes, which stay in the L1 cache between the search for the maximum and
// the sum around it: memory is read once. Class i of a leaf, the first label left out, goes to lane
// i % kClassLanes in T; lanes are merged pairwise in double, leaves in their order. The cut depends on the number
// of classes alone: the same bits for any number of threads, also where one row's leaves are shared out.
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
  alignas(64) T rest[kClassLanes] = {};
  alignas(64) T distance[kClassLanes] = {};
  alignas(64) T weight[kClassLanes] = {};
  alignas(64) T spread[kClassLanes] = {};
};

// Adds n classes; w: their weights, not read without Share::kGiven. counts: whether in rest and spread, too.
template <class Term, class T>
ONEPASS_WALK void add_classes(const Term term, const T* __restrict x, const T* __restrict w, int64_t n,
                              bool counts, ClassLanes<T>& lanes) {
  constexpr bool kGiven = Term::kShareOf == math::Share::kGiven;
  ClassLanes<T> own = lanes;
  int64_t i = 0;
  for (; i + kClassLanes <= n; i += kClassLanes) {
    ONEPASS_LANES
    for (int l = 0; l < kClassLanes; ++l) {
      term.add(x[i + l], kGiven ? w[i + l] : T(0), counts, own.rest[l], own.distance[l], own.weight[l],
               own.spread[l]);
    }
  }
  lanes = own;
  if (i == n) return;
  alignas(64) T last[2][kClassLanes];
  for (int l = 0; l < kClassLanes; ++l) {
    last[0][l] = x[i + l < n ? i + l : i];
    last[1][l] = kGiven ? w[i + l < n ? i + l : i] : T(0);
  }
  ONEPASS_LANES
  for (int l = 0; l < kClassLanes; ++l) {
    term.add(last[0][l], last[1][l], counts, own.rest[l], own.distance[l], own.weight[l], own.spread[l]);
  }
  for (int l = 0; i < n; ++i, ++l) {
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

// The sums of a leaf of n classes. w: anything without Share::kGiven. label: its place in the leaf; outside of it there is none.
template <class T, math::Share kShare, bool kSpread>
inline LeafSums<T> reduce_leaf(const T* x, const T* w, int64_t n, int64_t label) {
  const T max = largest_class(x, n);
  const math::SoftmaxTerm<T, kShare, kSpread> term{math::shift_of(max)};
  ClassLanes<T> lanes;
  if (label >= 0 && label < n) {
    add_classes(term, x, w, label, true, lanes);
    if (kShare != math::Share::kNone) add_classes(term, x + label, w + label, 1, false, lanes);
    add_classes(term, x + label + 1, w + label + 1, n - label - 1, true, lanes);
  } else {
    add_classes(term, x, w, n, true, lanes);
  }
  const double weight = kShare == math::Share::kEqual ? double(n) : sum_lanes(lanes.weight);
  return {max, sum_lanes(lanes.rest), sum_lanes(lanes.distance), weight, sum_lanes(lanes.spread)};
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
