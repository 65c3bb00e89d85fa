// no_cuda.cpp - what answers for the CUDA kernels in a build without them.

#include "core/check.h"
#include "kernels/kernels.h"

namespace onepass::cuda {
namespace {

[[noreturn]] void missing(const char* function) {
  throw DeviceError(concat(function,
                           ": this onepass was built without CUDA; install it where nvcc is found, or "
                           "with -C cmake.define.ONEPASS_CUDA=ON to see what is missing"));
}

}  // namespace

void sgd(const TensorList&, const SgdStep*, bool, const Tail&, const Launch&) { missing("sgd"); }
void adam(const TensorList&, const AdamStep*, bool, const Tail&, const Launch&) { missing("adam"); }
void norm(const TensorList&, int, double, Leaf*, const Launch&) { missing("norm"); }
void decide(const Leaf*, int64_t, const Decision&, StepControl*, const Launch&) { missing("decide"); }
void scale(const TensorList&, const StepControl*, const Launch&) { missing("scale"); }
void clamp(const TensorList&, double, const Launch&) { missing("clamp"); }
void gather_statistics(const StatisticsRow*, int64_t, GroupStatistics*, int64_t, double, DeviceScalar,
                       const Launch&) {
  missing("statistics");
}
void increment(float* const*, int64_t, const StepControl*, const Launch&) { missing("adam"); }
void batch_norm_forward(const BatchNorm&, const Launch&) { missing("batch_norm"); }
void batch_norm_inference(const BatchNorm&, const Launch&) { missing("batch_norm"); }
void batch_norm_backward(const BatchNorm&, const Launch&) { missing("batch_norm"); }
void dropout(const DropoutCall&, const Launch&) { missing("dropout"); }
int64_t batch_norm_workspace(const ChannelShape&) { missing("batch_norm"); }
void cross_entropy_forward(const CrossEntropy&, const Launch&) { missing("cross_entropy"); }
void cross_entropy_backward(const CrossEntropy&, const Launch&) { missing("cross_entropy"); }
void exponential(DType, const void*, void*, int64_t, const Launch&) { missing("exponential"); }
int64_t cross_entropy_workspace(const ClassShape&) { missing("cross_entropy"); }

}  // namespace onepass::cuda
