#include "bind/core/target.h"

#include "core/check.h"

namespace onepass {

bool uses_cuda_kernels(dlpack::DLDevice device) {
#if defined(ONEPASS_SIMT)
  return device.device_type == dlpack::kDLCPU;
#else
  return device.device_type == dlpack::kDLCUDA;
#endif
}

void check_has_kernels(dlpack::DLDevice device, const ArgumentName& name) {
  OP_CHECK(device.device_type == dlpack::kDLCPU || uses_cuda_kernels(device), ValueError, to_string(name),
           " must be on cpu or cuda, got ", device_name(device));
  OP_CHECK(!uses_cuda_kernels(device) || cuda_kernels(), RuntimeError, name.function,
           ": this onepass was built without CUDA; install it where nvcc is found, or with "
           "-C cmake.define.ONEPASS_CUDA=ON to see what is missing; got ",
           name.list, " on ", device_name(device));
}

Target target_of(dlpack::DLDevice device, int threads, TensorReader& reader) {
  Target target;
  target.device = device;
  target.on_gpu = uses_cuda_kernels(device);
  target.kernels = target.on_gpu ? cuda_kernels() : &cpu_kernels();
  target.launch.threads = threads < 1 ? 1 : threads;
  target.launch.device = device.device_id;
  if (device.device_type == dlpack::kDLCUDA) target.launch.stream = reader.current_stream(device.device_id);
  return target;
}

}  // namespace onepass
