// cpu.cpp - hands a call to the kernels of the chosen instruction set.

#include "core/isa.h"
#include "kernels/kernels.h"

#if defined(ONEPASS_X86)
#define ONEPASS_CALL(call)   \
  switch (isa()) {           \
    case Isa::kBaseline:     \
      return baseline::call; \
    case Isa::kAvx2:         \
      return avx2::call;     \
    case Isa::kAvx512:       \
      return avx512::call;   \
  }
#else
#define ONEPASS_CALL(call) return baseline::call
#endif

namespace onepass::cpu {

void sgd(const TensorList& list, const SgdStep* rules, bool momentum, const Tail& tail,
         const Launch& launch) {
  ONEPASS_CALL(sgd(list, rules, momentum, tail, launch));
}

void adam(const TensorList& list, const AdamStep* rules, bool amsgrad, const Tail& tail,
          const Launch& launch) {
  ONEPASS_CALL(adam(list, rules, amsgrad, tail, launch));
}

void norm(const TensorList& list, int which, double p, Leaf* leaves, const Launch& launch) {
  ONEPASS_CALL(norm(list, which, p, leaves, launch));
}

void decide(const Leaf* leaves, int64_t count, const Decision& decision, StepControl* control,
            const Launch& launch) {
  ONEPASS_CALL(decide(leaves, count, decision, control, launch));
}

void scale(const TensorList& list, const StepControl* control, const Launch& launch) {
  ONEPASS_CALL(scale(list, control, launch));
}

void clamp(const TensorList& list, double limit, const Launch& launch) {
  ONEPASS_CALL(clamp(list, limit, launch));
}

void gather_statistics(const StatisticsRow* rows, int64_t count, GroupStatistics* groups, int64_t group_count,
                       double host_grad_scale, DeviceScalar grad_scale, const Launch& launch) {
  ONEPASS_CALL(gather_statistics(rows, count, groups, group_count, host_grad_scale, grad_scale, launch));
}

void stream(const float* const* reads, int read_count, float* const* writes, int write_count, int64_t n,
            const Launch& launch) {
  ONEPASS_CALL(stream(reads, read_count, writes, write_count, n, launch));
}

void copy(const float* from, float* to, int64_t n, const Launch& launch) {
  ONEPASS_CALL(copy(from, to, n, launch));
}

void batch_norm_forward(const BatchNorm& op, const Launch& launch) {
  ONEPASS_CALL(batch_norm_forward(op, launch));
}

void batch_norm_inference(const BatchNorm& op, const Launch& launch) {
  ONEPASS_CALL(batch_norm_inference(op, launch));
}

void batch_norm_backward(const BatchNorm& op, const Launch& launch) {
  ONEPASS_CALL(batch_norm_backward(op, launch));
}

void dropout(const DropoutCall& op, const Launch& launch) { ONEPASS_CALL(dropout(op, launch)); }

void cross_entropy_forward(const CrossEntropy& op, const Launch& launch) {
  ONEPASS_CALL(cross_entropy_forward(op, launch));
}

void cross_entropy_backward(const CrossEntropy& op, const Launch& launch) {
  ONEPASS_CALL(cross_entropy_backward(op, launch));
}

void exponential(DType dtype, const void* x, void* y, int64_t n, const Launch& launch) {
  ONEPASS_CALL(exponential(dtype, x, y, n, launch));
}

}  // namespace onepass::cpu
