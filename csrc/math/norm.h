// norm.h - what a vector's p-norm adds up element by element, how parts are put together, and the norm at the
// end.
//
//   p = 2:    sqrt(sum x^2)        p = 1:    sum |x|
//   p = inf:  max |x|              else:     (sum |x|^p)^(1/p)
//
// Everything is double, whatever x is stored in: the square of any finite float32 is exact and finite there,
// so that finite elements never give an infinite norm. A nan or an infinity among the elements stays visible
// in the sum. Source: torch.linalg.vector_norm.
#pragma once

#include <cmath>

#include "core/compiler.h"

namespace onepass::math {

struct SquareSum {
  ONEPASS_HD double add(double sum, double x) const { return sum + x * x; }
  ONEPASS_HD double merge(double a, double b) const { return a + b; }
  ONEPASS_HD double norm(double sum) const { return sqrt(sum); }
};

struct MagnitudeSum {
  ONEPASS_HD double add(double sum, double x) const { return sum + fabs(x); }
  ONEPASS_HD double merge(double a, double b) const { return a + b; }
  ONEPASS_HD double norm(double sum) const { return sum; }
};

struct Largest {
  // A nan stays, on either side.
  ONEPASS_HD double merge(double a, double b) const { return (b > a || b != b) ? b : a; }
  ONEPASS_HD double add(double largest, double x) const { return merge(largest, fabs(x)); }
  ONEPASS_HD double norm(double largest) const { return largest; }
};

struct PowerSum {
  double p;
  ONEPASS_HD double add(double sum, double x) const { return sum + pow(fabs(x), p); }
  ONEPASS_HD double merge(double a, double b) const { return a + b; }
  ONEPASS_HD double norm(double sum) const { return pow(sum, 1 / p); }
};

// Calls run(functor) for the norm of order p.
template <class Run>
inline void with_norm(double p, const Run& run) {
  if (p == 2) return run(SquareSum{});
  if (p == 1) return run(MagnitudeSum{});
  if (p > 0 && std::isinf(p)) return run(Largest{});
  run(PowerSum{p});
}

}  // namespace onepass::math
