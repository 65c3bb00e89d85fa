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

void sgd(const TensorList& list, const SgdStep* rules, bool momentum, const Launch& launch) {
  ONEPASS_CALL(sgd(list, rules, momentum, launch));
}

void adam(const TensorList& list, const AdamStep* rules, bool amsgrad, const Launch& launch) {
  ONEPASS_CALL(adam(list, rules, amsgrad, launch));
}

void stream(const float* const* reads, int read_count, float* const* writes, int write_count, int64_t n,
            const Launch& launch) {
  ONEPASS_CALL(stream(reads, read_count, writes, write_count, n, launch));
}

}  // namespace onepass::cpu
