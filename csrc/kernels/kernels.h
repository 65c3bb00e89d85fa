// kernels.h - every kernel of onepass, declared once for all devices.
//
// A kernel takes checked arguments (bind/ checks) and returns when the work is done (cpu) or launched on the
// given stream (cuda). The CPU files are compiled once per instruction set; cpu:: calls the one that isa()
// chose.
#pragma once

#include <cstdint>

#include "kernels/norm/batch_norm.h"
#include "kernels/loss/cross_entropy.h"
#include "kernels/dropout/dropout.h"
#include "loops/tensors/leaves.h"
#include "loops/tensors/tail.h"
#include "loops/tensors/tensor_list.h"
#include "math/adam.h"
#include "math/clip.h"
#include "math/norm.h"
#include "math/sgd.h"
#include "math/statistics.h"

namespace onepass {

using math::GroupStatistics;
using math::StepControl;

// Where work runs. cpu: threads. cuda: device and stream.
struct Launch {
  int threads = 1;
  int device = 0;
  void* stream = nullptr;
};

// A scalar that lives on the device, so that a captured CUDA graph sees its new value at each replay.
struct DeviceScalar {
  const void* data = nullptr;  // nullptr: not on the device, the host's value counts
  DType dtype = DType::kFloat32;
};

// What the rules of every optimizer have beside their options. step counts from 1: the step being taken.
struct StepScalars {
  DeviceScalar lr;           // takes the place of the option
  double step = 1;           // of SGD only where results are rounded stochastically
  DeviceScalar device_step;  // takes the place of step; counted up before the kernel is launched
  double ema_decay = 0;
  const StepControl* control = nullptr;  // on the device: its factor takes the place of grad_factor
  uint64_t seed = 0;                     // of the random draws (math/draws.h)
  int64_t group = 0;                     // whose statistics the tensors' are
};

// The rule of some tensors of an SGD step.
struct SgdStep : StepScalars {
  math::SgdOptions options;
};

// The rule of some tensors of an Adam step.
struct AdamStep : StepScalars {
  math::AdamOptions options;
};

// What the norm of the gradients is to decide.
struct Decision {
  math::ClipOptions options;
  double norm_type = 2;
  double host_grad_scale = 1;
  double host_found_inf = 0;
  DeviceScalar grad_scale;  // these take the places of the two above
  DeviceScalar found_inf;
};

// Lists: param, grad, and with momentum momentum_buffer. item.rule indexes rules.
#define ONEPASS_DECLARE_SGD                                                               \
  void sgd(const TensorList& list, const SgdStep* rules, bool momentum, const Tail& tail, \
           const Launch& launch)
// Lists: param, grad, exp_avg, exp_avg_sq, and with amsgrad max_exp_avg_sq. item.rule indexes rules.
#define ONEPASS_DECLARE_ADAM                                                               \
  void adam(const TensorList& list, const AdamStep* rules, bool amsgrad, const Tail& tail, \
            const Launch& launch)
// leaves[0 .. leaf_count(list)): of the p-norm of the list `which`.
#define ONEPASS_DECLARE_NORM \
  void norm(const TensorList& list, int which, double p, Leaf* leaves, const Launch& launch)
// Puts leaves together and writes *control, whose skipped_steps counts on. Everything is on the device.
#define ONEPASS_DECLARE_DECIDE                                                                   \
  void decide(const Leaf* leaves, int64_t count, const Decision& decision, StepControl* control, \
              const Launch& launch)
// List kParam *= control->factor; list kGrad must be the same memory. Nothing is written if the factor is 1.
#define ONEPASS_DECLARE_SCALE \
  void scale(const TensorList& list, const StepControl* control, const Launch& launch)
// List kParam clamped to [-limit, limit]; list kGrad must be the same memory.
#define ONEPASS_DECLARE_CLAMP void clamp(const TensorList& list, double limit, const Launch& launch)
// groups[0 .. group_count) from the rows of all tensors; gradients were scaled by *grad_scale, or by the
// number.
#define ONEPASS_DECLARE_GATHER_STATISTICS                                                      \
  void gather_statistics(const StatisticsRow* rows, int64_t count, GroupStatistics* groups,    \
                         int64_t group_count, double host_grad_scale, DeviceScalar grad_scale, \
                         const Launch& launch)
// writes[k][i] = c writes[k][i] + sum of reads[.][i], each thread over one contiguous part of n floats: the
// plainest loop with given reads and writes, by which benchmarks measure the bandwidth.
#define ONEPASS_DECLARE_STREAM                                                                             \
  void stream(const float* const* reads, int read_count, float* const* writes, int write_count, int64_t n, \
              const Launch& launch)
// to[0 .. n) = from[0 .. n), in as many parts: the bandwidth of what writes somewhere else than it reads.
#define ONEPASS_DECLARE_COPY void copy(const float* from, float* to, int64_t n, const Launch& launch)

// Writes y, mean, invstd, running_* and mask from x, weight, bias and residual.
#define ONEPASS_DECLARE_BATCH_NORM_FORWARD void batch_norm_forward(const BatchNorm& op, const Launch& launch)
// Writes y and mask with the running statistics.
#define ONEPASS_DECLARE_BATCH_NORM_INFERENCE \
  void batch_norm_inference(const BatchNorm& op, const Launch& launch)
// Writes dx, dresidual, dweight and dbias, those that are there, from dy, x, mean, invstd, weight, bias and
// mask.
#define ONEPASS_DECLARE_BATCH_NORM_BACKWARD \
  void batch_norm_backward(const BatchNorm& op, const Launch& launch)

// y from x and the residual; fills places.table where there is one.
#define ONEPASS_DECLARE_DROPOUT void dropout(const DropoutCall& op, const Launch& launch)
// Writes loss, max, rest and totals. With a *bad_row everything written is rubbish.
#define ONEPASS_DECLARE_CROSS_ENTROPY_FORWARD \
  void cross_entropy_forward(const CrossEntropy& op, const Launch& launch)
// Writes dx from x, labels, grad, max, rest and totals.
#define ONEPASS_DECLARE_CROSS_ENTROPY_BACKWARD \
  void cross_entropy_backward(const CrossEntropy& op, const Launch& launch)
// y[i] = e^x[i]: the exponential that the loss is made of, for tests. float, or double.
#define ONEPASS_DECLARE_EXPONENTIAL \
  void exponential(DType dtype, const void* x, void* y, int64_t n, const Launch& launch)

#define ONEPASS_DECLARE_CPU_KERNELS       \
  ONEPASS_DECLARE_SGD;                    \
  ONEPASS_DECLARE_ADAM;                   \
  ONEPASS_DECLARE_NORM;                   \
  ONEPASS_DECLARE_DECIDE;                 \
  ONEPASS_DECLARE_SCALE;                  \
  ONEPASS_DECLARE_CLAMP;                  \
  ONEPASS_DECLARE_GATHER_STATISTICS;      \
  ONEPASS_DECLARE_STREAM;                 \
  ONEPASS_DECLARE_COPY;                   \
  ONEPASS_DECLARE_BATCH_NORM_FORWARD;     \
  ONEPASS_DECLARE_BATCH_NORM_INFERENCE;   \
  ONEPASS_DECLARE_BATCH_NORM_BACKWARD;    \
  ONEPASS_DECLARE_CROSS_ENTROPY_FORWARD;  \
  ONEPASS_DECLARE_CROSS_ENTROPY_BACKWARD; \
  ONEPASS_DECLARE_EXPONENTIAL;            \
  ONEPASS_DECLARE_DROPOUT;

namespace baseline {
ONEPASS_DECLARE_CPU_KERNELS
}
namespace avx2 {
ONEPASS_DECLARE_CPU_KERNELS
}
namespace avx512 {
ONEPASS_DECLARE_CPU_KERNELS
}
namespace cpu {
ONEPASS_DECLARE_CPU_KERNELS
}

namespace cuda {
ONEPASS_DECLARE_SGD;
ONEPASS_DECLARE_ADAM;
ONEPASS_DECLARE_NORM;
ONEPASS_DECLARE_DECIDE;
ONEPASS_DECLARE_SCALE;
ONEPASS_DECLARE_CLAMP;
ONEPASS_DECLARE_GATHER_STATISTICS;
ONEPASS_DECLARE_BATCH_NORM_FORWARD;
ONEPASS_DECLARE_BATCH_NORM_INFERENCE;
ONEPASS_DECLARE_BATCH_NORM_BACKWARD;
ONEPASS_DECLARE_DROPOUT;
ONEPASS_DECLARE_CROSS_ENTROPY_FORWARD;
ONEPASS_DECLARE_CROSS_ENTROPY_BACKWARD;
ONEPASS_DECLARE_EXPONENTIAL;
// Doubles of workspace for logits of this shape.
int64_t cross_entropy_workspace(const ClassShape& shape);
// Doubles of workspace for a tensor of this shape.
int64_t batch_norm_workspace(const ChannelShape& shape);
// *counts[k] += 1 for each of `count` scalars on the device, unless control (or nullptr) says skip.
void increment(float* const* counts, int64_t count, const StepControl* control, const Launch& launch);
}  // namespace cuda

}  // namespace onepass
