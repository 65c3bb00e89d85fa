// device_scalar.cuh - hyper-parameters that the kernel itself reads, so that a captured graph sees their
// value at replay time.
#pragma once

#include "core/kernel_compat.cuh"
#include "kernels/kernels.h"

namespace onepass::gpu {

// The scalar's value, or `host` if it is not on the device.
__device__ __forceinline__ double value_of(const DeviceScalar& scalar, double host) {
  if (!scalar.data) return host;
  return scalar.dtype == DType::kFloat64 ? *static_cast<const double*>(scalar.data)
                                         : double(*static_cast<const float*>(scalar.data));
}

}  // namespace onepass::gpu
