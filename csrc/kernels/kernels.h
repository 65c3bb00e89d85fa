// kernels.h - every kernel of onepass, declared once for all devices.
//
// A kernel takes checked arguments (bind/ checks) and returns when the work is done (cpu) or launched on the
// given stream (cuda). The CPU files are compiled once per instruction set, each into a namespace of its own;
// bind/ calls through a table of one of them.
#pragma once

#include <cstdint>

#include "kernels/augment/augment.h"
#include "kernels/dropout/dropout.h"
#include "kernels/loss/cross_entropy.h"
#include "kernels/norm/batch_norm.h"
#include "kernels/norm/row_norm.h"
#include "kernels/optim/rules.h"
#include "loops/tensors/leaves.h"
#include "loops/tensors/tail.h"
#include "loops/tensors/tensor_list.h"
#include "math/clip.h"
#include "math/norm.h"
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

// A scalar that is on the device, so that a captured CUDA graph sees its new value at each replay.
struct DeviceScalar {
  const void* data = nullptr;  // nullptr: not on the device, the host's value counts
  DType dtype = DType::kFloat32;
};

// What the rules of every optimizer have besides their options. step counts from 1: the step being taken.
struct StepScalars {
  DeviceScalar lr;           // takes the place of the option
  double step = 1;           // SGD needs it only where results are rounded stochastically
  DeviceScalar device_step;  // takes the place of step; counted up before the kernel is launched
  double ema_decay = 0;
  const StepControl* control = nullptr;  // on the device: its factor takes the place of grad_factor
  uint64_t seed = 0;                     // of the random draws (math/draws.h)
  DrawPlaces part;                       // that the tensors are of those that draws are numbered in
  int64_t group = 0;                     // number of the param group, for the statistics

  // taken: the number of the step, from the host or the device.
  template <class T>
  ONEPASS_HD RuleTail<T> tail(double taken) const {
    return {math::Ema<T>::make(ema_decay), {seed, uint32_t(int64_t(taken)), part}, double(group)};
  }
};

// The rule of some tensors of a step: the options of an optimizer family, and what all families share.
template <class FamilyOptions>
struct RuleStep : StepScalars {
  using Options = FamilyOptions;
  Options options;
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

// One pass of an update rule. item.rule indexes rules; the variant has one state list more (with momentum,
// with amsgrad). The lists are param, grad, the rule's states (math/), and what Tail asks for.
template <class Options>
using RuleKernel = void(const TensorList& list, const RuleStep<Options>* rules, bool variant,
                        const Tail& tail, const Launch& launch);

// leaves[0 .. leaf_count(list)): the p-norms of the leaves of the list `which`.
using NormKernel = void(const TensorList& list, int which, double p, Leaf* leaves, const Launch& launch);
// Puts leaves together and writes *control, whose skipped_steps counts on. Everything is on the device.
using DecideKernel = void(const Leaf* leaves, int64_t count, const Decision& decision, StepControl* control,
                          const Launch& launch);
// List kParam *= control->factor; list kGrad must be the same memory. Nothing is written if the factor is 1.
using ScaleKernel = void(const TensorList& list, const StepControl* control, const Launch& launch);
// List kParam clamped to [-limit, limit]; list kGrad must be the same memory.
using ClampKernel = void(const TensorList& list, double limit, const Launch& launch);
// groups[0 .. group_count) from the rows of all tensors; gradients were scaled by grad_scale, or by
// host_grad_scale where that is not on the device.
using GatherStatisticsKernel = void(const StatisticsRow* rows, int64_t count, GroupStatistics* groups,
                                    int64_t group_count, double host_grad_scale, DeviceScalar grad_scale,
                                    const Launch& launch);
// *counts[k] += 1 for each of `count` scalars on the device, unless control (or nullptr) says skip.
using IncrementKernel = void(float* const* counts, int64_t count, const StepControl* control,
                             const Launch& launch);

// forward writes y, mean, invstd, running_* and mask from x, weight, bias and residual; inference writes y
// and mask with the running statistics; backward writes dx, dresidual, dweight and dbias, those that are
// there, from dy, x, mean, invstd, weight, bias and mask.
// moments writes own from x; merge_moments writes mean, invstd, running_* and total, merge_gradients terms,
// from gathered. backward with own and without dx writes own, with terms it reads no sums.
using BatchNormKernel = void(const BatchNorm& op, const Launch& launch);
// Doubles of workspace for a tensor of this shape.
using BatchNormWorkspace = int64_t(const ChannelShape& shape);

// forward writes y, mean and invstd from x, weight and bias, and h with a residual; backward writes dx,
// dresidual, dweight and dbias, those that are there, from dy, dh, x, mean, invstd and weight.
using RowNormKernel = void(const RowNorm& op, const Launch& launch);
// Doubles of workspace. columns: for backward with dweight or dbias.
using RowNormWorkspace = int64_t(const RowShape& shape, DType dtype, bool columns);

// y from x and the residual; fills places.table where there is one.
using DropoutKernel = void(const DropoutCall& op, const Launch& launch);

// forward writes loss, max, rest and totals; with a *bad_row everything written is rubbish. backward writes
// dx from x, labels, grad, max, rest and totals.
using CrossEntropyKernel = void(const CrossEntropy& op, const Launch& launch);
// Doubles of workspace for logits of this shape.
using CrossEntropyWorkspace = int64_t(const ClassShape& shape, bool statistics, int threads);
// y[i] = e^x[i]: the exponential that the loss is made of, for tests. float, or double.
using ExponentialKernel = void(DType dtype, const void* x, void* y, int64_t n, const Launch& launch);

// output from images, and masks from masks, by the records. CUDA: with what op.device holds.
using AugmentKernel = void(const Augment& op, const Launch& launch);
using AugmentMasksKernel = void(const AugmentMasks& op, const Launch& launch);

// writes[k][i] = c writes[k][i] + sum of reads[.][i], each thread over one contiguous part of n floats: the
// plainest loop with given reads and writes, by which benchmarks measure the bandwidth.
using ProbeKernel = void(const float* const* reads, int read_count, float* const* writes, int write_count,
                         int64_t n, const Launch& launch);
// to[0 .. n) = from[0 .. n), a part for each thread: the bandwidth of loops that write elsewhere than they
// read.
using ProbeCopyKernel = void(const float* from, float* to, int64_t n, const Launch& launch);
// to[0 .. n) = from[0 .. n), bytes that become floats: the bandwidth of loops that normalise images.
using ProbeWidenKernel = void(const uint8_t* from, float* to, int64_t n, const Launch& launch);
// For each pixel of `count` images of side x side pixels, of three bytes each: reads the eight bytes of its
// upper and those of its lower taps at slanted places, and writes twelve bytes of them: the bandwidth of
// loops that turn images.
using ProbeTapsKernel = void(const uint8_t* from, float* to, int64_t count, int64_t side,
                             const Launch& launch);

// The one list of kernels, X(name, type): declarations, the tables below and the choice of an instruction set
// follow from it.
#define ONEPASS_KERNELS(X)                          \
  ONEPASS_RULES(X)                                  \
  X(norm, NormKernel)                               \
  X(decide, DecideKernel)                           \
  X(scale, ScaleKernel)                             \
  X(clamp, ClampKernel)                             \
  X(gather_statistics, GatherStatisticsKernel)      \
  X(batch_norm_forward, BatchNormKernel)            \
  X(batch_norm_inference, BatchNormKernel)          \
  X(batch_norm_backward, BatchNormKernel)           \
  X(batch_norm_moments, BatchNormKernel)            \
  X(batch_norm_merge_moments, BatchNormKernel)      \
  X(batch_norm_merge_gradients, BatchNormKernel)    \
  X(batch_norm_workspace, BatchNormWorkspace)       \
  X(row_norm_forward, RowNormKernel)                \
  X(row_norm_backward, RowNormKernel)               \
  X(row_norm_workspace, RowNormWorkspace)           \
  X(dropout, DropoutKernel)                         \
  X(cross_entropy_forward, CrossEntropyKernel)      \
  X(cross_entropy_backward, CrossEntropyKernel)     \
  X(cross_entropy_workspace, CrossEntropyWorkspace) \
  X(exponential, ExponentialKernel)                 \
  X(augment, AugmentKernel)                         \
  X(augment_masks, AugmentMasksKernel)
// Kernels that one of the two devices has: benchmarks probe the CPU only, and a step count on the host needs
// no kernel.
#define ONEPASS_CPU_ONLY_KERNELS(X) \
  X(probe, ProbeKernel)             \
  X(probe_copy, ProbeCopyKernel)    \
  X(probe_widen, ProbeWidenKernel)  \
  X(probe_taps, ProbeTapsKernel)
#define ONEPASS_CUDA_ONLY_KERNELS(X) X(increment, IncrementKernel)

#define ONEPASS_DECLARE(name, Type) Type name;
namespace baseline {
ONEPASS_KERNELS(ONEPASS_DECLARE)
ONEPASS_CPU_ONLY_KERNELS(ONEPASS_DECLARE)
}  // namespace baseline
namespace avx2 {
ONEPASS_KERNELS(ONEPASS_DECLARE)
ONEPASS_CPU_ONLY_KERNELS(ONEPASS_DECLARE)
}  // namespace avx2
namespace avx512 {
ONEPASS_KERNELS(ONEPASS_DECLARE)
ONEPASS_CPU_ONLY_KERNELS(ONEPASS_DECLARE)
}  // namespace avx512
namespace cuda {
ONEPASS_KERNELS(ONEPASS_DECLARE)
ONEPASS_CUDA_ONLY_KERNELS(ONEPASS_DECLARE)
}  // namespace cuda
#undef ONEPASS_DECLARE

// The kernels of one device, or of one instruction set. nullptr: the device has no such kernel.
struct KernelTable {
#define ONEPASS_POINTER(name, Type) Type* name = nullptr;
  ONEPASS_KERNELS(ONEPASS_POINTER)
  ONEPASS_CPU_ONLY_KERNELS(ONEPASS_POINTER)
  ONEPASS_CUDA_ONLY_KERNELS(ONEPASS_POINTER)
#undef ONEPASS_POINTER
};

// The kernels of the instruction set that isa() chose.
const KernelTable& cpu_kernels();
// nullptr in a build without CUDA.
const KernelTable* cuda_kernels();

}  // namespace onepass
