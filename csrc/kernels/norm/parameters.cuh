// parameters.cuh - a channel's parameters and running statistics, read and written on the GPU: batch_norm.cu
// and merge_ranks.cu. CPU: parameters.h.
#pragma once

#include "core/packs.cuh"
#include "kernels/norm/batch_norm.h"
#include "math/batch_norm.h"

namespace onepass::gpu {

// Parameter c of a list; `missing` where there is no list.
__device__ __forceinline__ double param_of(DType dtype, const void* list, int64_t c, double missing) {
  double value = missing;
  if (list) with_typed(dtype, list, [&](auto* typed) { value = double(widen(typed[c])); });
  return value;
}

__device__ __forceinline__ void set_param(DType dtype, void* list, int64_t c, double value) {
  if (!list) return;
  if (dtype == DType::kFloat64) static_cast<double*>(list)[c] = value;
  if (dtype == DType::kFloat32) static_cast<float*>(list)[c] = float(value);
  if (dtype == DType::kBFloat16) static_cast<__nv_bfloat16*>(list)[c] = narrow<__nv_bfloat16>(float(value));
  if (dtype == DType::kFloat16) static_cast<__half*>(list)[c] = narrow<__half>(float(value));
}

// Saves a channel's statistics and updates the running ones, in one thread.
template <class T>
__device__ __forceinline__ void use_moments(const BatchNorm& op, int64_t c, double mean, double m2,
                                            double rows) {
  static_cast<T*>(op.mean)[c] = T(mean);
  static_cast<T*>(op.invstd)[c] = T(math::invstd_of(m2 / rows, op.eps));
  const double factor = op.batches ? 1 / double(*op.batches) : op.momentum;
  const DType dtype = op.param_dtype;
  set_param(dtype, op.running_mean, c,
            math::running_average(param_of(dtype, op.running_mean, c, 0), mean, factor));
  set_param(dtype, op.running_var, c,
            math::running_average(param_of(dtype, op.running_var, c, 0), m2 / (rows - 1), factor));
}

}  // namespace onepass::gpu
