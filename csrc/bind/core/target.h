// target.h - where a call's kernels run: device, kernel table and launch, resolved once from a tensor's
// device.
#pragma once

#include "bind/core/tensor.h"
#include "kernels/kernels.h"

namespace onepass {

// Whether the GPU's kernels run on a tensor of this device: on CUDA, and in the test-only build
// (ONEPASS_SIMT) on the CPU.
bool uses_cuda_kernels(dlpack::DLDevice device);
// Throws unless this build has kernels for a tensor of this device.
void check_has_kernels(dlpack::DLDevice device, const ArgumentName& name);

struct Target {
  dlpack::DLDevice device{};
  const KernelTable* kernels = nullptr;
  bool on_gpu = false;  // kernels are launched, and the host goes on
  Launch launch;
};

// A device that check_has_kernels let through. Asks for the current stream, which needs the GIL.
Target target_of(dlpack::DLDevice device, int threads, TensorReader& reader);

}  // namespace onepass
