// batch_norm.h - batch normalisation of one element, and its gradient.
//
//   forward   v = (x - mean) scale + bias + residual,   scale = weight invstd,   invstd = 1 / sqrt(var + eps)
//             y = v, or with ReLU max(v, 0)
//   backward  g = dy where v > 0 (or everywhere, without ReLU); dresidual = g
//             dbias = sum g,   dweight = invstd sum g (x - mean)
//             dx = scale (g - dbias / n - (x - mean) invstd dweight / n)      (batch statistics)
//             dx = scale g                                                    (running statistics)
//
// dx: with xh = (x - mean) invstd, y = weight xh + bias, and xh depends on x also through mean and invstd:
// d xh_i / d x_j = invstd (delta_ij - 1 / n - xh_i xh_j / n), summed with weight g_i over i.
// The backward recomputes v by the very operations of the forward, in the same type, so that its sign is the
// same. A nan passes the ReLU both ways, as in torch. Source: Ioffe and Szegedy 2015, algorithm 1 and
// section 3.
#pragma once

#include <cmath>

#include "core/compiler.h"
#include "math/moments.h"

namespace onepass::math {

template <class T>
ONEPASS_HD bool passes(T v) {
  return !(v <= 0);
}

template <class T>
ONEPASS_HD T relu(T v) {
  return v <= 0 ? T(0) : v;
}

ONEPASS_HD double invstd_of(double var, double eps) { return 1 / sqrt(var + eps); }

// A running statistic after a batch.
ONEPASS_HD double running_average(double running, double batch, double factor) {
  return factor * batch + (1 - factor) * running;
}

// One channel's v.
template <class T>
struct Affine {
  T mean, scale, bias;
  ONEPASS_HD static Affine make(T mean, T invstd, double weight, double bias) {
    return {mean, T(invstd * T(weight)), T(bias)};
  }
  ONEPASS_HD T operator()(T x) const { return (x - mean) * scale + bias; }
};

// The gradient of v, from that of the ReLU's output and the sign of v.
template <class T>
ONEPASS_HD T relu_gradient(const Affine<T>& affine, T x, T g) {
  return passes(affine(x)) ? g : T(0);
}

template <class T, bool kResidual, bool kRelu>
struct Normalise {
  static constexpr int kParams = 3;
  static constexpr bool kReadsX = true;
  static constexpr bool kReadsOther = kResidual;
  static constexpr bool kChooses = false;
  // Whether v passes the ReLU must be kept: it does not follow from x.
  static constexpr bool kFlags = kResidual && kRelu;
  T mean, scale, bias;
  ONEPASS_HD T operator()(T x, T residual) const {
    const T v = Affine<T>{mean, scale, bias}(x);
    return kResidual ? v + residual : v;
  }
  ONEPASS_HD T result(T v) const { return kRelu ? relu(v) : v; }
};

// The two sums of the backward. g comes in as dy, masked already where the sign does not follow from x.
template <class T, bool kRelu>
struct GradientSums {
  static constexpr int kParams = 3;
  static constexpr bool kGrad = true;
  static constexpr bool kChooses = kRelu;
  static constexpr bool kShifted = false;
  T mean, scale, bias;
  ONEPASS_HD void add(T x, T g, T& s1, T& s2) const {
    if (kRelu) g = relu_gradient(Affine<T>{mean, scale, bias}, x, g);
    s1 += g;
    s2 += g * (x - mean);
  }
  // With a g of zero.
  ONEPASS_HD T neutral() const { return mean; }
  ONEPASS_HD Pair part(double, double s1, double s2) const { return {s1, s2}; }
};

ONEPASS_HD Pair merge(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }
ONEPASS_HD double weight_gradient(Pair sums, double invstd) { return sums.second * invstd; }

// What a channel's two sums make of dx: dx = scale (g - mean_g - (x - mean) slope).
template <class T>
struct GradientTerms {
  T mean_g, slope;
  ONEPASS_HD static GradientTerms make(Pair sums, double invstd, double count) {
    return {T(sums.first / count), T(sums.second * invstd * invstd / count)};
  }
};

template <class T, bool kRelu, bool kTraining>
struct Gradient {
  static constexpr int kParams = 5;
  static constexpr bool kReadsX = kRelu || kTraining;
  static constexpr bool kReadsOther = true;
  static constexpr bool kChooses = kRelu;
  static constexpr bool kFlags = false;
  T mean, scale, bias, mean_g, slope;
  ONEPASS_HD T operator()(T x, T g) const {
    if (kRelu) g = relu_gradient(Affine<T>{mean, scale, bias}, x, g);
    return kTraining ? ((g - mean_g) - (x - mean) * slope) * scale : g * scale;
  }
  ONEPASS_HD T result(T dx) const { return dx; }
};

}  // namespace onepass::math
