// cross_entropy.h - softmax sums of a row of logits, and the loss and gradient that follow from them.
//
// A row x of C logits and a target distribution q, not necessarily of sum 1, Q = sum q:
//   loss = sum_c q_c (lse - x_c) + z w lse^2,   lse = log sum_c e^(x_c)
//   q_c  = (1 - eps) sum_k lam_k w_k [c = t_k] + (eps / C) (sum_k lam_k) w_c        labels t_k, class weights
//   w
//        = w_c ((1 - eps) y_c + eps / C)                                            probabilities y
// Labels that are ignored have no lam. With probabilities there is no t, and all of q counts as `share`.
//
// m = max x, and with the first label t left out of the sums:
//   rest = sum_(c != t) e^(x_c - m),   s = rest + e^(x_t - m),   distance = sum_c w_c (m - x_c)
//   lse - x_c = log s + (m - x_c),  log s = log1p(rest + (e^(x_t - m) - 1)): exact in rest where t is the
//   largest
// Backward, A = Q + 2 z w lse, p_c = e^(x_c - m) / s, upstream gradient g:
//   dx_c = g (A p_c - q_c),   dx_t = g ((A - q_t) - A rest / s) where p_t > 1/2: without the cancellation of
//   p_t - 1
// Kept between the two: m and rest of each row. lse alone, rounded to float32, would cost e^(x - lse) the
// digits that lse has before the point.
//
// Source: Szegedy et al. 2016, "Rethinking the inception architecture", section 7 (smoothing); Zhang et al.
// 2018, "mixup" (two labels); Chowdhery et al. 2023, "PaLM", section 5 (z-loss);
// torch.nn.functional.cross_entropy.
#pragma once

#include "math/exp.h"
#include "math/log1p.h"

namespace onepass::math {

// Which classes count besides the label's, and by which weight: none (no smoothing), each by 1, each by its
// own.
enum class Share { kNone, kEqual, kGiven };

// Sums over some classes of a row, in A, counted from one m, which need not be the maximum; the first label
// is left out of rest and spread, which are counted as ScaledExp does until they are settled().
template <class A>
struct TermSums {
  A rest;
  A distance;
  A weight;  // sum w_c; with Share::kNone 0
  A spread;  // sum e^(x_c - m) (m - x_c): entropy = log s + spread / s
};

template <class A>
ONEPASS_HD TermSums<A> operator+(const TermSums<A>& a, const TermSums<A>& b) {
  return {a.rest + b.rest, a.distance + b.distance, a.weight + b.weight, a.spread + b.spread};
}

// The same with their m.
template <class T, class A>
struct SoftmaxSums : TermSums<A> {
  T max;
};

// Where exponents are counted from: a row that is all -inf has no finite maximum.
template <class T>
ONEPASS_HD T shift_of(T max) {
  return max < 0 && !is_finite(max) ? T(0) : max;
}

// The larger one. A nan b is passed over: it shows in the sums.
template <class T>
ONEPASS_HD T larger(T a, T b) {
  return b > a ? b : a;
}

// Adds one class. kept: 1, or 0 for the first label, which is left out of rest and spread.
template <class T, Share kShare, bool kSpread>
struct SoftmaxTerm {
  static constexpr Share kShareOf = kShare;
  T shift;
  ONEPASS_HD void add(T x, T w, T kept, TermSums<T>& sums) const {
    const T above = x - shift;
    const T e = ScaledExp<T>::usual()(above);
    sums.rest += kept * e;
    if (kShare == Share::kEqual) sums.distance -= above;
    if (kShare == Share::kGiven) {
      sums.distance -= w * above;
      sums.weight += w;
    }
    // Below -1000 e is 0, and its product with -inf must be.
    if (kSpread) sums.spread -= kept * (e * larger(above, T(-1000)));
  }
};

// The sums as counted from a larger maximum.
template <class T, class A>
ONEPASS_HD SoftmaxSums<T, A> raised(SoftmaxSums<T, A> a, T max) {
  const T before = shift_of(a.max), after = shift_of(max), gap = after - before;
  if (gap == 0) return {{a.rest, a.distance, a.weight, a.spread}, max};
  const A scale = A(exponential(a.max - max)), rest = a.rest * scale;
  const A spread = scale == 0 ? A(0) : a.spread * scale + rest * A(gap);
  return {{rest, a.weight == 0 ? a.distance : a.distance + A(gap) * a.weight, a.weight, spread}, max};
}

// Whether sums that were counted from `shift` are as good once they are raised to `max`: their terms were not
// much above 1. Else they are better formed again.
template <class T>
ONEPASS_HD bool can_raise(T shift, T max) {
  return max - shift <= 1;
}

template <class T, class A>
ONEPASS_HD SoftmaxSums<T, A> merge(const SoftmaxSums<T, A>& a, const SoftmaxSums<T, A>& b) {
  const T max = larger(a.max, b.max);
  const SoftmaxSums<T, A> x = raised(a, max), y = raised(b, max);
  return {x + y, max};
}

template <class T, class A>
ONEPASS_HD SoftmaxSums<T, A> settled(const SoftmaxSums<T, A>& a) {
  constexpr A kLess = A(ExpConstants<T>::kLess);
  return {{a.rest * kLess, a.distance, a.weight, a.spread * kLess}, a.max};
}

// The options of a call, the same for every row.
struct LossOptions {
  double smoothing = 0;
  double z_loss = 0;
};

// One label of a row: lam 0 if it is ignored or not there.
struct Label {
  double lam = 0;
  double weight = 1;
};

// q of a row: first and second label, and share * w_c of every class.
template <class T>
struct RowTarget {
  T first, second, share;
  T total;       // Q
  T total_less;  // Q - q_t of the first label
  T weight;      // w: of the row in a mean
  T of_label;    // q_t of the first label

  // all_weights: sum of w_c, C without weights.
  ONEPASS_HD static RowTarget make(const Label& a, const Label& b, const LossOptions& options, double classes,
                                   double all_weights) {
    const double kept = 1 - options.smoothing, share = options.smoothing / classes * (a.lam + b.lam);
    const double first = kept * a.lam * a.weight, second = kept * b.lam * b.weight;
    return {T(first),
            T(second),
            T(share),
            T(first + second + share * all_weights),
            T(second + share * (all_weights - a.weight)),
            T(a.lam * a.weight + b.lam * b.weight),
            T(first + share * a.weight)};
  }
  // From probabilities, whose sum by weight is `total`.
  ONEPASS_HD static RowTarget of_probabilities(T total) {
    return {T(0), T(0), T(1), total, total, T(1), T(0)};
  }
};

// The labels of a row, the one that counts more first; -1: none.
template <class T>
struct RowLabels {
  int64_t first = -1, second = -1;
  double lam_first = 0, lam_second = 0;
  bool counts = false;  // false: the row is ignored
  RowTarget<T> target{};

  // a, b: the labels, -1 where there is none; weight_of(class): their weights.
  template <class Weight>
  ONEPASS_HD static RowLabels make(int64_t a, double lam_a, int64_t b, double lam_b,
                                   const LossOptions& options, double classes, double all_weights,
                                   const Weight& weight_of) {
    RowLabels found;
    lam_a = a < 0 ? 0 : a == b ? lam_a + lam_b : lam_a;
    lam_b = b < 0 || a == b ? 0 : lam_b;
    const bool swapped = lam_b > lam_a;
    found.first = swapped ? b : a;
    found.second = swapped ? a : b;
    found.lam_first = swapped ? lam_b : lam_a;
    found.lam_second = swapped ? lam_a : lam_b;
    if (found.lam_second == 0) found.second = -1;
    found.counts = found.first >= 0;
    if (!found.counts) return found;
    const Label one{found.lam_first, weight_of(found.first)};
    const Label other{found.lam_second, found.second < 0 ? 1 : weight_of(found.second)};
    found.target = RowTarget<T>::make(one, other, options, classes, all_weights);
    return found;
  }
  // From probabilities, whose sum by weight is `total`.
  ONEPASS_HD static RowLabels of_probabilities(T total) {
    RowLabels found;
    found.counts = true;
    found.target = RowTarget<T>::of_probabilities(total);
    return found;
  }
  // The target's share of class `best`: how right that prediction is.
  ONEPASS_HD double correctness(int64_t best) const {
    return (best == first ? lam_first : 0) + (best == second ? lam_second : 0);
  }
};

template <class T>
ONEPASS_HD T smoothed(T probability, T weight, T kept, T share) {
  return weight * (kept * probability + share);
}

// What follows from a row's sums. x_t, x_u: the logits of the labels, the maximum where there is none.
template <class T>
struct RowSoftmax {
  T max, rest, e_t, sum, log_sum;

  ONEPASS_HD static RowSoftmax make(T max, T rest, T x_t, bool has_label) {
    const T e_t = has_label ? exponential(x_t - max) : T(0);
    return {max, rest, e_t, rest + e_t, log_of_one_plus(rest + (e_t - 1))};
  }
  ONEPASS_HD T lse() const { return max + log_sum; }
  ONEPASS_HD T below(T x) const { return log_sum + (max - x); }
  ONEPASS_HD T confidence() const { return 1 / sum; }
  // e_t is not in spread.
  ONEPASS_HD T entropy(T spread, T x_t) const {
    return log_sum + (spread + (e_t == 0 ? T(0) : e_t * (max - x_t))) / sum;
  }
};

template <class T>
ONEPASS_HD T row_loss(const RowSoftmax<T>& row, const RowTarget<T>& q, T x_t, T x_u, T distance,
                      T all_weights, T z_loss) {
  T loss = q.first * row.below(x_t);
  if (q.second != 0) loss += q.second * row.below(x_u);
  if (q.share != 0) loss += q.share * (all_weights * row.log_sum + distance);
  if (z_loss != 0) loss += z_loss * q.weight * (row.lse() * row.lse());
  return loss;
}

// The gradient of a row: dx_c = e^(x_c - max) scale - share w_c, except for the labels.
template <class T>
struct RowGradient {
  ScaledExp<T> exp;  // in `scale` its unit is taken back
  T max, scale, share;
  T first;   // dx_t itself
  T second;  // is added to dx_u

  ONEPASS_HD static RowGradient make(const RowSoftmax<T>& row, const RowTarget<T>& q, T grad, T z_loss) {
    using Constants = ExpConstants<T>;
    const T more = z_loss == 0 ? T(0) : 2 * z_loss * q.weight * row.lse();
    const T all = q.total + more, scale = all * grad / row.sum;
    // A p_t - q_t, or the same by the other classes: each where its terms are the smaller ones.
    const T first = row.e_t < row.rest ? all * (row.e_t / row.sum) - q.of_label
                                       : (q.total_less + more) - all * (row.rest / row.sum);
    // A factor that would become subnormal stays as it is. It makes 0 of every e^x that is subnormal.
    const bool tiny = (scale < 0 ? -scale : scale) < Constants::kTiny;
    return {ScaledExp<T>::with(tiny ? 0 : Constants::kMore),
            shift_of(row.max),
            plain_nan(tiny ? scale : scale * Constants::kLess),
            plain_nan(q.share * grad),
            grad * first,
            -q.second * grad};
  }
  // For a row that is ignored: zeros, whatever its logits are.
  ONEPASS_HD static RowGradient none() { return {ScaledExp<T>::usual(), T(0), T(0), T(0), T(0), T(0)}; }
  // Whether logits matter.
  ONEPASS_HD bool has_softmax() const { return scale != 0; }
  // kSoftmax: has_softmax(), where that is known.
  template <bool kSoftmax, bool kShare>
  ONEPASS_HD T at(T x, T w) const {
    const T e = kSoftmax ? exp(x - max) : T(0);
    return kShare ? fused(e, scale, -(share * w)) : e * scale;
  }
  template <bool kShare>
  ONEPASS_HD T at(T x, T w) const {
    return has_softmax() ? at<true, kShare>(x, w) : at<false, kShare>(T(0), w);
  }
};

}  // namespace onepass::math
