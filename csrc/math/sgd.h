// sgd.h - stochastic gradient descent with weight decay, momentum and Nesterov's variant.
//
//   g  = grad_factor g, or -grad_factor g  (maximize)
//   g  = g + weight_decay p
//   b  = g                            (first step of this parameter: no dampening, as torch)
//   b  = momentum b + (1 - dampening) g
//   g  = g + momentum b  (nesterov)   or   g = b
//   p  = p - lr g
//
// p: param, g: grad, b: momentum_buffer. Reads p, g, b and writes p, b: 20 bytes per float32 element with
// momentum, 12 without. Source: Sutskever et al. 2013, "On the importance of initialization and momentum in
// deep learning"; torch.optim.SGD, whose loop this follows operation by operation.
#pragma once

#include "core/compiler.h"

namespace onepass::math {

// Hyper-parameters as the user gives them.
struct SgdOptions {
  double lr = 0;
  double momentum = 0;
  double dampening = 0;
  double weight_decay = 0;
  bool nesterov = false;
  bool maximize = false;
  bool first = false;      // momentum_buffer holds no value yet: it is written, not read
  double grad_factor = 1;  // gradients are multiplied by it: unscaling and clipping
};

// State lists of the update: none.
template <class T>
struct Sgd {
  static constexpr int kStates = 0;
  T sign, weight_decay, lr;

  // The step count of make(options, step), which all rules are made with, does not matter here.
  ONEPASS_HD static Sgd make(const SgdOptions& o, double) {
    return {T(o.maximize ? -o.grad_factor : o.grad_factor), T(o.weight_decay), T(o.lr)};
  }

  // weight_decay == 0 must not touch g: 0 * inf would be nan.
  ONEPASS_HD T decayed(T p, T g) const {
    const T signed_grad = sign * g;
    return weight_decay != T(0) ? signed_grad + weight_decay * p : signed_grad;
  }

  ONEPASS_HD void operator()(T& p, T g) const { p -= lr * decayed(p, g); }
};

// State lists: momentum_buffer.
template <class T>
struct SgdMomentum {
  static constexpr int kStates = 1;
  Sgd<T> plain;
  T momentum, grad_weight;
  T nesterov, first;  // 1 or 0: a loop that tests a bool is one that GCC 12 may not vectorise

  ONEPASS_HD static SgdMomentum make(const SgdOptions& o, double step) {
    return {Sgd<T>::make(o, step), T(o.momentum), T(1 - o.dampening), T(o.nesterov), T(o.first)};
  }

  ONEPASS_HD void operator()(T& p, T g, T& b) const {
    g = plain.decayed(p, g);
    const T running = momentum * b + grad_weight * g;
    b = first != T(0) ? g : running;
    const T direction = nesterov != T(0) ? g + momentum * b : b;
    p -= plain.lr * direction;
  }
};

}  // namespace onepass::math
