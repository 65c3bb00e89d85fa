// parameters.h - a channel's parameters and running statistics, read and written on the CPU: batch_norm.cpp
// and merge_ranks.cpp. CUDA: parameters.cuh.
#pragma once

#include "core/convert.h"
#include "kernels/norm/batch_norm.h"
#include "math/batch_norm.h"

namespace onepass::ONEPASS_ISA {

inline double param_of(const BatchNorm& op, const void* stored, int64_t c, double missing) {
  double value = missing;
  if (stored) load_strip(op.param_dtype, stored, c, &value, 1);
  return value;
}

inline void set_param(const BatchNorm& op, void* stored, int64_t c, double value) {
  if (!stored) return;
  if (op.param_dtype == DType::kFloat64) {
    static_cast<double*>(stored)[c] = value;
  } else if (op.param_dtype == DType::kFloat32) {
    static_cast<float*>(stored)[c] = float(value);
  } else {
    const float rounded = float(value);
    store_strip(op.param_dtype, stored, c, &rounded, 1);
  }
}

template <class T>
math::Affine<T> affine_of(const BatchNorm& op, int64_t c, T mean, T invstd) {
  return math::Affine<T>::make(mean, invstd, param_of(op, op.weight, c, 1), param_of(op, op.bias, c, 0));
}

// Saves the statistics of channel c, updates the running ones, and makes the channel's parameters.
template <class T>
math::Affine<T> use_moments(const BatchNorm& op, double factor, int64_t c, const math::Moments& moments,
                            double rows) {
  const T mean = T(moments.mean), invstd = T(math::invstd_of(moments.m2 / rows, op.eps));
  static_cast<T*>(op.mean)[c] = mean;
  static_cast<T*>(op.invstd)[c] = invstd;
  const double running_mean = param_of(op, op.running_mean, c, 0),
               running_var = param_of(op, op.running_var, c, 0);
  set_param(op, op.running_mean, c, math::running_average(running_mean, moments.mean, factor));
  set_param(op, op.running_var, c, math::running_average(running_var, moments.m2 / (rows - 1), factor));
  return affine_of(op, c, mean, invstd);
}

inline double factor_of(const BatchNorm& op) { return op.batches ? 1 / double(*op.batches) : op.momentum; }

}  // namespace onepass::ONEPASS_ISA
