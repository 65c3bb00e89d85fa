// rows.h - sums along rows of classes that follow each other in memory, on the CPU. Their gradients:
// gradients.h. Rows of few classes, and classes that lie apart: columns.h. CUDA: classes.cuh.
//
// A row is cut in segments of kClassSegment classes. The first segment's maximum is the
// reference; if a later segment exceeds it by far, that segment is summed a second time. So almost all logits
// are read once. A
// segment is added a step of kClassStep classes at a time to kClassLanes lanes in T, the first label left
// out; lanes are merged pairwise in double, segments in their order. The cut depends on the number of classes
// alone: the same bits for any number of threads, also where one row's segments are shared out.
#pragma once

#include <limits>

#include "loops/classes/shape.h"
#include "loops/common/lanes.h"
#include "loops/common/strips.h"
#include "math/cross_entropy.h"

namespace onepass::ONEPASS_ISA {

constexpr int kClassLanes = 16;
constexpr int kMaxLanes = 64;

template <class T>
using SegmentSums = math::SoftmaxSums<T, double>;

template <class T>
constexpr T kLowest = -std::numeric_limits<T>::infinity();

template <int kCount, class T>
inline T largest_lane(const T* lane) {
  return merge_lanes<kCount>(lane, [](T a, T b) { return math::larger(a, b); });
}

template <class S>
ONEPASS_WALK arithmetic<S> largest_class(const S* __restrict x, int64_t n) {
  using T = arithmetic<S>;
  alignas(64) T lane[kMaxLanes];
  for (int l = 0; l < kMaxLanes; ++l) lane[l] = kLowest<T>;
  int64_t i = 0;
  for (; i + kMaxLanes <= n; i += kMaxLanes) {
    ONEPASS_UNROLLED
    for (int l = 0; l < kMaxLanes; ++l) lane[l] = math::larger(lane[l], widen(x[i + l]));
  }
  if (n < kMaxLanes) {
    for (int l = 0; l < n; ++l) lane[l] = math::larger(lane[l], widen(x[l]));
  } else if (i < n) {
    // The last kMaxLanes classes: some come a second time, which does not change a maximum.
    ONEPASS_LANES
    for (int l = 0; l < kMaxLanes; ++l) lane[l] = math::larger(lane[l], widen(x[n - kMaxLanes + l]));
  }
  return largest_lane<kMaxLanes>(lane);
}

// The math::TermSums of kCount lanes.
template <class T, int kCount>
struct TermLanes {
  alignas(64) T rest[kCount] = {};
  alignas(64) T distance[kCount] = {};
  alignas(64) T weight[kCount] = {};
  alignas(64) T spread[kCount] = {};

  ONEPASS_HD math::TermSums<T> at(int l) const { return {rest[l], distance[l], weight[l], spread[l]}; }
  // Without `counted` the lane keeps what it has.
  ONEPASS_HD void set(int l, const math::TermSums<T>& sums, bool counted = true) {
    rest[l] = counted ? sums.rest : rest[l];
    distance[l] = counted ? sums.distance : distance[l];
    weight[l] = counted ? sums.weight : weight[l];
    spread[l] = counted ? sums.spread : spread[l];
  }
};

template <class T>
struct ClassLanes : TermLanes<T, kClassLanes> {
  alignas(64) T max[kClassLanes];

  // Adds one class; without `counted` it is compared with the maximum only.
  template <class Term>
  ONEPASS_HD void add(const Term& term, int l, T x, T w, bool counted) {
    math::TermSums<T> sums = this->at(l);
    max[l] = math::larger(max[l], x);
    term.add(x, w, T(1), sums);
    this->set(l, sums, counted);
  }
  // Adds lanes of other classes, counted from the same shift.
  void merge(const ClassLanes& other) {
    ONEPASS_LANES
    for (int l = 0; l < kClassLanes; ++l) {
      max[l] = math::larger(max[l], other.max[l]);
      this->set(l, this->at(l) + other.at(l));
    }
  }
};

// Whether two neighbours are walked as one word (core/convert.h says why).
template <class S>
constexpr bool kPaired = std::is_same_v<S, BFloat16>;

// The type as which logits are walked: with weights of their own not in pairs, for which the weights would
// have to be moved between lanes.
template <class S, math::Share kShare>
using Walked = std::conditional_t<kPaired<S> && kShare == math::Share::kGiven, float, S>;

// Classes that are added in one step.
template <class S>
constexpr int64_t kClassStep = kPaired<S> ? 2 * kClassLanes : kClassLanes;

// The lanes of a segment; in pairs the second classes have their own.
template <class S>
struct SegmentLanes {
  using T = arithmetic<S>;
  ClassLanes<T> first, second;

  SegmentLanes() {
    for (int l = 0; l < kClassLanes; ++l) first.max[l] = second.max[l] = kLowest<T>;
  }
  // kClassStep classes, or, with kSome, those from class `begin` on without class `skipped`; w: their
  // weights, not read without Share::kGiven.
  template <bool kSome, class Term>
  ONEPASS_HD void add(const Term& term, const S* x, const T* w, int begin = 0, int skipped = -1) {
    constexpr bool kGiven = Term::kShareOf == math::Share::kGiven;
    const auto counts = [=](int i) { return !kSome || ((i >= begin) & (i != skipped)); };
    if (!kSome) fetch_ahead(x, kClassStep<S> * int64_t(sizeof(S)));
    ONEPASS_LANES
    for (int l = 0; l < kClassLanes; ++l) {
      if constexpr (kPaired<S>) {
        static_assert(!kGiven, "Walked");
        const BFloat16Pair pair = from_bfloat16_pair(&x[2 * l].bits);
        first.add(term, l, pair.first, T(0), counts(2 * l));
        second.add(term, l, pair.second, T(0), counts(2 * l + 1));
      } else {
        first.add(term, l, widen(x[l]), kGiven ? w[l] : T(0), counts(l));
      }
    }
  }
};

// Adds n classes of a segment without the label, whose place in the segment is one of them or -1. What is
// left behind the last whole step is added as the end of a step that reaches back.
template <class Term, class S, class T>
ONEPASS_WALK void add_classes(const Term term, const S* __restrict x, const T* __restrict w, int64_t n,
                              int64_t label, ClassLanes<T>& sums) {
  constexpr int64_t kStep = kClassStep<S>;
  constexpr bool kGiven = Term::kShareOf == math::Share::kGiven;
  const int64_t whole = n / kStep * kStep, left = n - whole;
  const int64_t at = label >= 0 && label < whole ? label / kStep * kStep : whole;
  SegmentLanes<S> lanes;
  for (int64_t i = 0; i < at; i += kStep) lanes.template add<false>(term, x + i, w + i);
  if (at < whole) lanes.template add<true>(term, x + at, w + at, 0, int(label - at));
  for (int64_t i = at + kStep; i < whole; i += kStep) lanes.template add<false>(term, x + i, w + i);
  if (left > 0 && whole > 0) {
    const int64_t back = n - kStep;
    lanes.template add<true>(term, x + back, w + back, int(kStep - left),
                             label < whole ? -1 : int(label - back));
  } else if (left > 0) {
    alignas(64) S last_x[kStep];
    alignas(64) T last_w[kStep] = {};
    const int64_t begin = kStep - left;
    for (int64_t k = 0; k < begin; ++k) last_x[k] = x[0];
    for (int64_t k = 0; k < left; ++k) last_x[begin + k] = x[k];
    if (kGiven) std::memcpy(last_w + begin, w, size_t(left) * sizeof(T));
    lanes.template add<true>(term, last_x, last_w, int(begin), label < 0 ? -1 : int(begin + label));
  }
  if (kPaired<S>) lanes.first.merge(lanes.second);
  sums = lanes.first;
}

// The sums of a segment of n classes as counted from `shift`, and the segment's maximum. w: anything without
// Share::kGiven. label: its place in the segment; outside of it there is none.
template <math::Share kShare, bool kSpread, class S, class T>
inline SegmentSums<T> sums_around(T shift, const S* x, const T* w, int64_t n, int64_t label, T& max) {
  const math::SoftmaxTerm<T, kShare, kSpread> term{math::shift_of(shift)};
  ClassLanes<T> lanes;
  const bool inside = label >= 0 && label < n;
  add_classes(term, x, w, n, inside ? label : -1, lanes);
  max = largest_lane<kClassLanes>(lanes.max);
  const double weight = kShare == math::Share::kEqual   ? double(n)
                        : kShare == math::Share::kGiven ? sum_lanes<kClassLanes>(lanes.weight)
                                                        : 0;
  const double distance = kShare == math::Share::kNone ? 0 : sum_lanes<kClassLanes>(lanes.distance);
  const double spread = kSpread ? sum_lanes<kClassLanes>(lanes.spread) : 0;
  math::TermSums<double> sums{sum_lanes<kClassLanes>(lanes.rest), distance, weight, spread};
  if (inside) {
    // The label's exponential is left out, and may be infinite: 0 times it would be a nan.
    math::TermSums<double> with_label = sums;
    const math::SoftmaxTerm<double, kShare, false> wide{double(term.shift)};
    wide.add(double(widen(x[label])), kShare == math::Share::kGiven ? double(w[label]) : 0, 0, with_label);
    sums.distance = with_label.distance;
    sums.weight = with_label.weight;
    max = math::larger(max, widen(x[label]));
  }
  return {sums, shift};
}

// The same, counted from shift, which is a logit of the row, or from the segment's maximum if that is larger.
// Memory is read once where the segment's maximum is not far above the shift; else the segment is summed
// again.
template <math::Share kShare, bool kSpread, class S, class T>
inline SegmentSums<T> reduce_segment(T shift, const S* x, const T* w, int64_t n, int64_t label) {
  T max;
  const SegmentSums<T> sums = sums_around<kShare, kSpread>(shift, x, w, n, label, max);
  if (max <= shift) return sums;
  if (math::can_raise(shift, max)) return math::raised(sums, max);
  return sums_around<kShare, kSpread>(max, x, w, n, label, max);
}

// The weights that probabilities y stand for, smoothed.
template <class T>
ONEPASS_WALK void smooth_classes(const T* y, const T* w, T kept, T share, T* out, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) out[i] = math::smoothed(y[i], w[i], kept, share);
}

}  // namespace onepass::ONEPASS_ISA
