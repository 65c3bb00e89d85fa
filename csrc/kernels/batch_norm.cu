// batch_norm.cu - batch normalisation on the GPU. CPU: batch_norm.cpp.

#include "core/cuda_device.cuh"
#include "kernels/kernels.h"

namespace onepass {

void cuda::batch_norm_forward(const BatchNorm&, const Launch&) {
  throw DeviceError("batch_norm: no GPU kernel");
}
void cuda::batch_norm_inference(const BatchNorm&, const Launch&) {
  throw DeviceError("batch_norm: no GPU kernel");
}
void cuda::batch_norm_backward(const BatchNorm&, const Launch&) {
  throw DeviceError("batch_norm: no GPU kernel");
}
int64_t cuda::batch_norm_workspace(const ChannelShape& shape) { return cpu_workspace(shape); }

}  // namespace onepass
