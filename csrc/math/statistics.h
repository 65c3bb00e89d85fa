// statistics.h - the statistics of one param group's step, from the sums of its leaves (telemetry).
//
//   norm = sqrt(sum x^2);   for gradients that were scaled: norm / grad_scale
//
// Source: torch.linalg.vector_norm (p = 2).
#pragma once

#include "core/bits.h"
#include "math/norm.h"

namespace onepass::math {

// All double, so that they are rows of a float64 tensor; sums over elements.
struct Statistics {
  double grad_square;    // of the gradient as it is stored
  double param_square;   // of the parameter's value after the update
  double update_square;  // of the change of that value
  double nonfinite;      // gradients that are infinite or nan
  double lost;           // elements whose gradient is not zero and whose value is what it was
};

// The same for a reader, likewise a row.
struct GroupStatistics {
  double grad_norm, param_norm, update_norm;
  double nonfinite, lost;
};

// What one element adds, in Sum; T: the arithmetic type. before, after: the parameter's value; grad as it is
// stored.
template <class Sum, class Count = Sum>
struct StatisticsTerm {
  template <class T>
  ONEPASS_HD static void add(T before, T after, T grad, Sum& grad_square, Sum& param_square,
                             Sum& update_square, Count& lost) {
    const Sum g = grad, p = after, u = Sum(after) - Sum(before);
    grad_square += g * g;
    param_square += p * p;
    update_square += u * u;
    lost += (after == before) & (g != Sum(0)) ? Count(1) : Count(0);
  }
};

// Whether float32 added these squares accurately. Those below 2^-126 lose digits: next to a sum above 2^-80
// the lost digits are invisible.
template <class T>
ONEPASS_HD bool squares_are_accurate(T sum) {
  return sum > T(0x1p-80) && is_finite(sum);
}

ONEPASS_HD Statistics merge(const Statistics& a, const Statistics& b) {
  return {a.grad_square + b.grad_square, a.param_square + b.param_square, a.update_square + b.update_square,
          a.nonfinite + b.nonfinite, a.lost + b.lost};
}

ONEPASS_HD GroupStatistics conclude(const Statistics& sum, double grad_scale) {
  const SquareSum square;
  return {square.norm(sum.grad_square) / grad_scale, square.norm(sum.param_square),
          square.norm(sum.update_square), sum.nonfinite, sum.lost};
}

}  // namespace onepass::math
