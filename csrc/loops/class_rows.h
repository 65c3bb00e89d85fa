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

// Overwrites the lanes.
template <int kCount, class T>
inline T largest_lane(T* lane) {
  for (int width = kCount / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] = math::larger(lane[l], lane[l + width]);
  }
  return lane[0];
}

template <class S>
ONEPASS_WALK arithmetic<S> largest_class(const S* __restrict x, int64_t n) {
  using T = arithmetic<S>;
  alignas(64) T lane[kMaxLanes];
  for (int l = 0; l < kMaxLanes; ++l) lane[l] = kLowest<T>;
  int64_t i = 0;
  for (; i + kMaxLanes <= n; i += kMaxLanes) {
    ONEPASS_LANES
    for (int l = 0; l < kMaxLanes; ++l) lane[l] = math::larger(lane[l], widen(x[i + l]));
  }
  if (n < kMaxLanes) {
    for (int l = 0; l < n; ++l) lane[l] = math::larger(lane[l], widen(x[l]));
  } else if (i < n) {
    // Some once more: a maximum does not mind.
    ONEPASS_LANES
    for (int l = 0; l < kMaxLanes; ++l) lane[l] = math::larger(lane[l], widen(x[n - kMaxLanes + l]));
  }
  return largest_lane<kMaxLanes>(lane);
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
  // Of classes that were counted from the same shift.
  void merge(const ClassLanes& other) {
    ONEPASS_LANES
    for (int l = 0; l < kClassLanes; ++l) {
      max[l] = math::larger(max[l], other.max[l]);
      rest[l] += other.rest[l];
      distance[l] += other.distance[l];
      weight[l] += other.weight[l];
      spread[l] += other.spread[l];
    }
  }
  // Lanes 0 .. count - 1.
  void take(const ClassLanes& other, int64_t count) {
    ONEPASS_LANES
    for (int l = 0; l < kClassLanes; ++l) {
      const bool taken = l < count;
      max[l] = taken ? other.max[l] : max[l];
      rest[l] = taken ? other.rest[l] : rest[l];
      distance[l] = taken ? other.distance[l] : distance[l];
      weight[l] = taken ? other.weight[l] : weight[l];
      spread[l] = taken ? other.spread[l] : spread[l];
    }
  }
};

// Whether two neighbours are walked as one word (core/convert.h says why).
template <class S>
constexpr bool kPaired = std::is_same_v<S, BFloat16>;

// What logits with weights of their own are walked as: in pairs the weights would be moved between lanes.
template <class S, math::Share kShare>
using Walked = std::conditional_t<kPaired<S> && kShare == math::Share::kGiven, float, S>;

// Adds n classes; w: their weights, not read without Share::kGiven.
template <class Term, class S, class T>
ONEPASS_WALK void add_classes(const Term term, const S* __restrict x, const T* __restrict w, int64_t n,
                              ClassLanes<T>& lanes) {
  constexpr bool kGiven = Term::kShareOf == math::Share::kGiven;
  ClassLanes<T> own = lanes;
  int64_t i = 0;
  if constexpr (kPaired<S>) {
    static_assert(!kGiven, "Walked");
    ClassLanes<T> second;
    for (int l = 0; l < kClassLanes; ++l) second.max[l] = own.max[l];
    for (; i + 2 * kClassLanes <= n; i += 2 * kClassLanes) {
      fetch_ahead(x + i, kLine);
      ONEPASS_LANES
      for (int l = 0; l < kClassLanes; ++l) {
        const BFloat16Pair pair = from_bfloat16_pair(&x[i + 2 * l].bits);
        own.add(term, l, pair.first, T(0));
        second.add(term, l, pair.second, T(0));
      }
    }
    own.merge(second);
  }
  for (; i + kClassLanes <= n; i += kClassLanes) {
    fetch_ahead(x + i, kClassLanes * int64_t(sizeof(S)));
    ONEPASS_LANES
    for (int l = 0; l < kClassLanes; ++l) own.add(term, l, widen(x[i + l]), kGiven ? w[i + l] : T(0));
  }
  lanes = own;
  if (i == n) return;
  // What is left, with copies of its first class behind it, whose lanes are thrown away.
  const int64_t left = n - i;
  alignas(64) S last_x[kClassLanes];
  alignas(64) T last_w[kClassLanes];
  for (int l = 0; l < kClassLanes; ++l) {
    last_x[l] = x[i];
    last_w[l] = kGiven ? w[i] : T(0);
  }
  std::memcpy(last_x, x + i, size_t(left) * sizeof(S));
  if (kGiven) std::memcpy(last_w, w + i, size_t(left) * sizeof(T));
  ONEPASS_LANES
  for (int l = 0; l < kClassLanes; ++l) own.add(term, l, widen(last_x[l]), last_w[l]);
  lanes.take(own, left);
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
template <math::Share kShare, bool kSpread, class S, class T>
inline LeafSums<T> sums_around(T shift, const S* x, const T* w, int64_t n, int64_t label, T& max) {
  const math::SoftmaxTerm<T, kShare, kSpread> term{math::shift_of(shift)};
  ClassLanes<T> lanes;
  for (int l = 0; l < kClassLanes; ++l) lanes.max[l] = kLowest<T>;
  const bool inside = label >= 0 && label < n;
  add_classes(term, x, w, inside ? label : n, lanes);
  if (inside) add_classes(term, x + label + 1, w + label + 1, n - label - 1, lanes);
  max = largest_lane<kClassLanes>(lanes.max);
  double weight = kShare == math::Share::kEqual   ? double(n)
                  : kShare == math::Share::kGiven ? sum_lanes(lanes.weight)
                                                  : 0;
  double rest = sum_lanes(lanes.rest), spread = kSpread ? sum_lanes(lanes.spread) : 0;
  double distance = kShare == math::Share::kNone ? 0 : sum_lanes(lanes.distance);
  if (inside) {
    double unused = 0, of_weight = kShare == math::Share::kEqual ? 0 : weight;
    const math::SoftmaxTerm<double, kShare, false> wide{double(term.shift)};
    wide.add(double(widen(x[label])), kShare == math::Share::kGiven ? double(w[label]) : 0, 0, unused,
             distance, of_weight, unused);
    if (kShare == math::Share::kGiven) weight = of_weight;
    max = math::larger(max, widen(x[label]));
  }
  return {shift, rest, distance, weight, spread};
}

// The same as counted from the larger one of shift, which is a logit of the row, and the leaf's maximum.
// Memory is read once where the leaf's maximum is not far above the shift; else the leaf is summed again.
template <math::Share kShare, bool kSpread, class S, class T>
inline LeafSums<T> reduce_leaf(T shift, const S* x, const T* w, int64_t n, int64_t label) {
  T max;
  const LeafSums<T> sums = sums_around<kShare, kSpread>(shift, x, w, n, label, max);
  if (max <= shift) return sums;
  if (max - shift <= 1) return math::raised(sums, max);
  return sums_around<kShare, kSpread>(max, x, w, n, label, max);
}

// The gradient of a class that is no label; without kSoftmax of a row whose logits do not matter.
template <bool kSoftmax, math::Share kShare, class S, class T>
ONEPASS_HD void walk_class(const math::RowGradient<T>& row, const S& x, T w, S& out) {
  narrow(row.template at<kSoftmax, kShare != math::Share::kNone>(widen(x), w), out);
}

template <bool kSoftmax, math::Share kShare, class T>
ONEPASS_HD void walk_pair(const math::RowGradient<T>& row, const BFloat16* x, BFloat16* out) {
  const BFloat16Pair pair = from_bfloat16_pair(&x->bits);
  const auto gradient = [&](T x_c) {
    return row.template at<kSoftmax, kShare != math::Share::kNone>(x_c, T(1));
  };
  to_bfloat16_pair({gradient(pair.first), gradient(pair.second)}, &out->bits);
}

// Of n classes; w: their weights, not read without Share::kGiven. x and out may be the same memory.
template <bool kSoftmax, math::Share kShare, class S, class T>
ONEPASS_HD void walk_run(const math::RowGradient<T>& row, const S* x, const T* w, S* out, int64_t n) {
  constexpr bool kGiven = kShare == math::Share::kGiven;
  int64_t paired = 0;
  if constexpr (kPaired<S>) {
    static_assert(!kGiven, "Walked");
    paired = n / 2 * 2;
    ONEPASS_INDEPENDENT
    for (int64_t i = 0; i < n / 2; ++i) walk_pair<kSoftmax, kShare>(row, x + 2 * i, out + 2 * i);
  }
  ONEPASS_INDEPENDENT
  for (int64_t i = paired; i < n; ++i) {
    walk_class<kSoftmax, kShare>(row, x[i], kGiven ? w[i] : T(1), out[i]);
  }
}

template <bool kSoftmax, math::Share kShare, class S, class T>
ONEPASS_WALK void walk_classes(const math::RowGradient<T> row, const S* x, const T* w, S* out, int64_t n) {
  walk_run<kSoftmax, kShare>(row, x, w, out, n);
}

// The gradients of a row's labels, ready to be stored, and at which of some classes; elsewhere there is none.
template <class S>
struct LabelGradients {
  int64_t at[2];
  S value[2];

  // Those among classes begin .. begin + n - 1, to out[0 .. n).
  void store(int64_t begin, int64_t n, S* out) const {
    for (int k = 0; k < 2; ++k) {
      const int64_t i = at[k] - begin;
      if (i >= 0 && i < n) out[i] = value[k];
    }
  }
};

// The same with the labels from class `begin` on, past the caches: whole lines.
template <bool kSoftmax, math::Share kShare, class S, class T>
ONEPASS_WALK void stream_classes(const math::RowGradient<T> row, const LabelGradients<S>& labels,
                                 int64_t begin, const S* __restrict x, const T* __restrict w,
                                 S* __restrict out, int64_t n) {
  stream_blocks(out, n, [&](int64_t i, S* __restrict block, auto count) {
    fetch_ahead(x + i, count * int64_t(sizeof(S)));
    walk_run<kSoftmax, kShare>(row, x + i, w + i, block, count);
    labels.store(begin + i, count, block);
  });
}

template <class T>
ONEPASS_WALK void smooth_classes(const T* y, const T* w, T kept, T share, T* out, int64_t n) {
  ONEPASS_INDEPENDENT
  for (int64_t i = 0; i < n; ++i) out[i] = math::smoothed(y[i], w[i], kept, share);
}

}  // namespace onepass::ONEPASS_ISA
