// moments.h - mean and sum of squared deviations of a channel, put together from parts.
//
//   of one part of n elements, around any shift k:  d = x - k,  s1 = sum d,  s2 = sum d^2
//     mean = k + s1 / n,   m2 = s2 - s1^2 / n
//   of all parts:
//     mean = sum n_i mean_i / n,   m2 = sum (m2_i + n_i (mean_i - mean)^2)
//
// The shift is the mean of some elements of the part: however far the channel lies from zero, d is of the
// size of the deviations, and next to nothing cancels in m2. Elements are added in T, parts in double.
// Source: Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", (1.5) and (2.1).
#pragma once

#include "core/compiler.h"

namespace onepass::math {

// A sum of two numbers over a part of a channel: of moments (mean, m2), of gradients (see batch_norm.h).
struct Pair {
  double first, second;
};

struct Moments {
  double mean, m2;
};

template <class T>
struct ShiftedSums {
  static constexpr int kParams = 1;
  static constexpr bool kGrad = false;
  static constexpr bool kChooses = false;
  static constexpr bool kShifted = true;
  T shift;
  // sum: of some elements of the part.
  ONEPASS_HD static ShiftedSums around(double sum, double count) { return {T(sum / count)}; }
  ONEPASS_HD void add(T x, T, T& s1, T& s2) const {
    const T d = x - shift;
    s1 += d;
    s2 += d * d;
  }
  // What can stand for a missing element: it adds nothing.
  ONEPASS_HD T neutral() const { return shift; }
  ONEPASS_HD Pair part(double count, double s1, double s2) const {
    return {double(shift) + s1 / count, s2 - s1 * (s1 / count)};
  }
};

// The two sums of the header's last line, term by term.
ONEPASS_HD double mean_term(Pair part, double count) { return part.first * count; }
ONEPASS_HD double m2_term(Pair part, double count, double mean) {
  const double d = part.first - mean;
  return part.second + count * (d * d);
}

}  // namespace onepass::math
