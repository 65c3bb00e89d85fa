// no_cuda.cpp - what links in the place of the CUDA kernels in a build without them. bind/ refuses tensors on
// CUDA before it calls any of these, and says for which function.

#include "core/check.h"
#include "kernels/kernels.h"

namespace onepass::cuda {
namespace {

[[noreturn]] void missing() { throw DeviceError("onepass was built without CUDA"); }

}  // namespace

void sgd(const TensorList&, const SgdStep*, bool, const Tail&, const Launch&) { missing(); }
void adam(const TensorList&, const AdamStep*, bool, const Tail&, const Launch&) { missing(); }
void norm(const TensorList&, int, double, Leaf*, const Launch&) { missing(); }
void decide(const Leaf*, int64_t, const Decision&, StepControl*, const Launch&) { missing(); }
void scale(const TensorList&, const StepControl*, const Launch&) { missing(); }
void clamp(const TensorList&, double, const Launch&) { missing(); }
void gather_statistics(const StatisticsRow*, int64_t, GroupStatistics*, int64_t, double, DeviceScalar,
                       const Launch&) {
  missing();
}
void increment(float* const*, int64_t, const StepControl*, const Launch&) { missing(); }
void batch_norm_forward(const BatchNorm&, const Launch&) { missing(); }
void batch_norm_inference(const BatchNorm&, const Launch&) { missing(); }
void batch_norm_backward(const BatchNorm&, const Launch&) { missing(); }
void dropout(const DropoutCall&, const Launch&) { missing(); }
int64_t batch_norm_workspace(const ChannelShape&) { missing(); }
void cross_entropy_forward(const CrossEntropy&, const Launch&) { missing(); }
void cross_entropy_backward(const CrossEntropy&, const Launch&) { missing(); }
void exponential(DType, const void*, void*, int64_t, const Launch&) { missing(); }
int64_t cross_entropy_workspace(const ClassShape&) { missing(); }

}  // namespace onepass::cuda
