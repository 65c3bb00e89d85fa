// row_norm.h - layer and RMS normalisation of one element of a row of n elements, and its gradient.
//
//   forward   h = residual + dropout(x)   (or h = x)
//             LayerNorm  y = (h - mean) invstd w + b,   invstd = 1 / sqrt(sum (h - mean)^2 / n + eps)
//             RMSNorm    y = h invstd w,                invstd = 1 / sqrt(sum h^2 / n + eps)
//   backward  g = dy w,  xh = (h - mean) invstd  (RMSNorm: mean = 0)
//             dh = invstd (g - sum g / n - xh sum (g xh) / n) + what comes from h itself  (RMSNorm: no sum g)
//             dw = sum over rows dy xh,   db = sum over rows dy
//
// dh: xh depends on h also through mean and invstd, as in batch_norm.h. Source: Ba, Kiros and Hinton 2016,
// "Layer Normalization", (4); Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", (4).
#pragma once

#include <cmath>

#include "core/compiler.h"
#include "math/moments.h"

namespace onepass::math {

// Mean and sum of squared deviations of the elements that were counted; without centring the mean is 0.
struct RowMoments {
  double count = 0;
  Moments moments{0, 0};

  // Chan, Golub, LeVeque 1983, (2.1).
  ONEPASS_HD void merge(double other_count, Pair other) {
    const double all = count + other_count, delta = other.first - moments.mean;
    moments.mean += delta * (other_count / all);
    moments.m2 += other.second + delta * delta * (count * (other_count / all));
    count = all;
  }
  ONEPASS_HD double invstd(double eps) const { return 1 / sqrt(moments.m2 / count + eps); }
};

// The sums of a segment of a row; around a shift as in moments.h, so that next to nothing cancels.
template <class T, bool kCentred>
struct RowSums {
  static constexpr bool kGrad = false;
  static constexpr bool kShifted = kCentred;
  T shift;
  // sum: of some elements of the segment.
  ONEPASS_HD static RowSums around(double sum, double count) { return {T(sum / count)}; }
  ONEPASS_HD void add(T x, T, T, T& s1, T& s2) const {
    if (kCentred) {
      const T d = x - shift;
      s1 += d;
      s2 += d * d;
    } else {
      s2 += x * x;
    }
  }
  // Adds nothing: for an element that is missing.
  ONEPASS_HD T neutral() const { return kCentred ? shift : T(0); }
  ONEPASS_HD Pair part(double count, double s1, double s2) const {
    if (!kCentred) return {0, s2};
    return {double(shift) + s1 / count, s2 - s1 * (s1 / count)};
  }
};

template <class T, bool kCentred>
struct NormaliseRow {
  static constexpr bool kReadsBias = kCentred;
  T mean, invstd;
  ONEPASS_HD T operator()(T x, T w, T b) const {
    return kCentred ? (x - mean) * invstd * w + b : x * invstd * w;
  }
};

// The two sums of a row's gradient: of g, and of g (x - mean).
template <class T, bool kCentred>
struct RowGradientSums {
  static constexpr bool kGrad = true;
  static constexpr bool kShifted = false;
  T mean;
  ONEPASS_HD void add(T x, T dy, T w, T& s1, T& s2) const {
    const T g = dy * w;
    if (kCentred) s1 += g;
    s2 += g * (kCentred ? x - mean : x);
  }
  ONEPASS_HD Pair part(double, double s1, double s2) const { return {s1, s2}; }
};

// kAdds: h has a gradient of its own.
template <class T, bool kCentred, bool kAdds>
struct RowNormGradient {
  static constexpr bool kCentres = kCentred;
  static constexpr bool kReadsOther = kAdds;
  T mean, invstd, mean_g, slope;
  ONEPASS_HD static RowNormGradient make(Pair sums, T mean, T invstd, double count) {
    const double wide = double(invstd);
    return {mean, invstd, T(sums.first / count), T(sums.second * wide * wide / count)};
  }
  ONEPASS_HD T operator()(T x, T dy, T w, T other) const {
    const T g = dy * w;
    const T d = kCentred ? ((g - mean_g) - (x - mean) * slope) * invstd : (g - x * slope) * invstd;
    return kAdds ? d + other : d;
  }
  // The row's terms of dw and db.
  ONEPASS_HD void add(T x, T dy, T& dw, T& db) const {
    dw += dy * ((kCentred ? x - mean : x) * invstd);
    if (kCentred) db += dy;
  }
};

}  // namespace onepass::math
