// adam.h - Adam with L2 decay, AdamW (decoupled decay) and AMSGrad, at step t = 1, 2, ...
//
//   g = grad_factor g, or -grad_factor g         (maximize)
//   p = (1 - lr weight_decay) p                  (decoupled: AdamW)
//   g = g + weight_decay p                       (L2: Adam)
//   m = lerp(m, g, 1 - beta1)
//   v = beta2 v + (1 - beta2) g^2
//   x = max(x, v)                                (amsgrad; else x = v)
//   p = p - lr / (1 - beta1^t) * m / (sqrt(x) / sqrt(1 - beta2^t) + eps)
//
// p: param, g: grad, m: exp_avg, v: exp_avg_sq, x: max_exp_avg_sq. Reads p, g, m, v and writes p, m, v: 28
// bytes per float32 element, 36 with amsgrad. Source: Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter
// 2019, algorithm 2; Reddi et al. 2018, algorithm 2; torch.optim.Adam, whose plain loop this follows
// operation by operation, but for one multiplication by 1 / sqrt(1 - beta2^t) in place of a division.
#pragma once

#include <cmath>

#include "core/compiler.h"
#include "math/lerp.h"

namespace onepass::math {

// Hyper-parameters as the user gives them.
struct AdamOptions {
  double lr = 0;
  double beta1 = 0;
  double beta2 = 0;
  double eps = 0;
  double weight_decay = 0;
  bool decoupled = false;
  bool maximize = false;
  double grad_factor = 1;  // gradients are multiplied by it: unscaling and clipping
};

// State lists: exp_avg, exp_avg_sq.
template <class T>
struct Adam {
  static constexpr int kStates = 2;
  T sign, decay, l2;
  T grad_weight, beta1, square_weight, beta2;
  T step_size, inverse_correction2, eps;

  // The scalars are computed in double whatever T is, as torch does in Python.
  ONEPASS_HD static Adam make(const AdamOptions& o, double step) {
    const double correction1 = 1 - pow(o.beta1, step);
    const double correction2 = 1 - pow(o.beta2, step);
    return {T(o.maximize ? -o.grad_factor : o.grad_factor),
            o.decoupled ? T(1 - o.lr * o.weight_decay) : T(1),
            o.decoupled ? T(0) : T(o.weight_decay),
            T(1 - o.beta1),
            T(o.beta1),
            T(1 - o.beta2),
            T(o.beta2),
            T(o.lr / correction1),
            T(1 / sqrt(correction2)),
            T(o.eps)};
  }

  // Updates p, m and v up to the last line; the gradient's square is weighted as torch's addcmul does it.
  ONEPASS_HD void moments(T& p, T g, T& m, T& v) const {
    g = sign * g;
    p = decay * p;
    // l2 == 0 must not touch g: 0 * inf would be nan.
    g = l2 != T(0) ? g + l2 * p : g;
    m = lerp(m, g, grad_weight, beta1);
    v = beta2 * v + square_weight * g * g;
  }

  ONEPASS_HD void descend(T& p, T m, T second_moment) const {
    using std::sqrt;
    p -= step_size * m / (sqrt(second_moment) * inverse_correction2 + eps);
  }

  ONEPASS_HD void operator()(T& p, T g, T& m, T& v) const {
    moments(p, g, m, v);
    descend(p, m, v);
  }
};

// State lists: exp_avg, exp_avg_sq, max_exp_avg_sq.
template <class T>
struct AmsGrad {
  static constexpr int kStates = 3;
  Adam<T> adam;

  ONEPASS_HD static AmsGrad make(const AdamOptions& o, double step) { return {Adam<T>::make(o, step)}; }

  ONEPASS_HD void operator()(T& p, T g, T& m, T& v, T& x) const {
    adam.moments(p, g, m, v);
    // A nan on either side stays, as in torch.maximum.
    x = (v > x || v != v) ? v : x;
    adam.descend(p, m, x);
  }
};

}  // namespace onepass::math
