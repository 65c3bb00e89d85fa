// cuda.cpp - the table of the CUDA kernels. Each module compiles it for itself: only one that was built with
// the kernels, by nvcc or for the host (ONEPASS_SIMT), has a table.

#include "kernels/kernels.h"

namespace onepass {

const KernelTable* cuda_kernels() {
#if defined(ONEPASS_CUDA_VERSION) || defined(ONEPASS_SIMT)
  static const KernelTable table = [] {
    KernelTable made;
#define ONEPASS_FILL(name, Type) made.name = cuda::name;
    ONEPASS_KERNELS(ONEPASS_FILL)
    ONEPASS_CUDA_ONLY_KERNELS(ONEPASS_FILL)
#undef ONEPASS_FILL
    return made;
  }();
  return &table;
#else
  return nullptr;
#endif
}

}  // namespace onepass
