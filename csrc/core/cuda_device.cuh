// cuda_device.cuh - the few runtime calls every launcher needs: errors, the current device, its size.
#pragma once

#include "core/check.h"
#include "core/kernel_compat.cuh"

namespace onepass {

inline void cuda_check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw RuntimeError(concat(what, ": ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")"));
  }
}

// Makes `device` current for a scope. Streams and launches belong to a device, and the caller's may be
// another.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    cuda_check(cudaGetDevice(&before_), "cudaGetDevice");
    changed_ = before_ != device;
    if (changed_) cuda_check(cudaSetDevice(device), "cudaSetDevice");
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

inline int multiprocessor_count(int device) {
  int count = 0;
  cuda_check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "cudaDeviceGetAttribute");
  return count;
}

}  // namespace onepass
