// lion.h - Lion: the sign of an interpolation between momentum and gradient, with decoupled decay.
//
//   g = grad_factor g, or -grad_factor g         (maximize)
//   p = (1 - lr weight_decay) p
//   p = p - lr sign(beta1 m + (1 - beta1) g)     (sign(0) = 0; a nan stays a nan)
//   m = beta2 m + (1 - beta2) g
//
// p: param, g: grad, m: exp_avg. Reads p, g, m and writes p, m: 20 bytes per float32 element. Source: Chen et
// al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2 (arXiv 2302.06675), and the authors'
// own code for torch, whose order of operations this follows.
#pragma once

#include "core/compiler.h"

namespace onepass::math {

// Hyper-parameters as the user gives them.
struct LionOptions {
  double lr = 0;
  double beta1 = 0;
  double beta2 = 0;
  double weight_decay = 0;
  bool maximize = false;
  double grad_factor = 1;  // gradients are multiplied by it: unscaling and clipping
};

// State lists: exp_avg.
template <class T>
struct Lion {
  static constexpr int kStates = 1;
  T sign, decay, lr;
  T beta1, update_weight, beta2, grad_weight;

  // The step count of make(options, step), which all rules are made with, does not matter here.
  ONEPASS_HD static Lion make(const LionOptions& o, double) {
    return {T(o.maximize ? -o.grad_factor : o.grad_factor),
            T(1 - o.lr * o.weight_decay),
            T(o.lr),
            T(o.beta1),
            T(1 - o.beta1),
            T(o.beta2),
            T(1 - o.beta2)};
  }

  ONEPASS_HD void operator()(T& p, T g, T& m) const {
    g = sign * g;
    const T u = beta1 * m + update_weight * g;
    // u itself where it is 0 or nan: torch.sign makes 0 of a nan, and the parameter would silently stand
    // still.
    p = decay * p - lr * (u > T(0) ? T(1) : u < T(0) ? T(-1) : u);
    m = beta2 * m + grad_weight * g;
  }
};

}  // namespace onepass::math
