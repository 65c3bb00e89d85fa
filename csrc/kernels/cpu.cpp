// cpu.cpp - the table of the CPU kernels of the chosen instruction set.

#include "core/isa.h"
#include "kernels/kernels.h"

namespace onepass {
namespace {

#define ONEPASS_FILL(name, Type) table.name = name;
#define ONEPASS_TABLE(isa)                 \
  KernelTable table_of_##isa() {           \
    using namespace isa;                   \
    KernelTable table;                     \
    ONEPASS_KERNELS(ONEPASS_FILL)          \
    ONEPASS_CPU_ONLY_KERNELS(ONEPASS_FILL) \
    return table;                          \
  }

ONEPASS_TABLE(baseline)
#if defined(ONEPASS_X86)
ONEPASS_TABLE(avx2)
ONEPASS_TABLE(avx512)
#endif

KernelTable choose() {
#if defined(ONEPASS_X86)
  if (isa() == Isa::kAvx512) return table_of_avx512();
  if (isa() == Isa::kAvx2) return table_of_avx2();
#endif
  return table_of_baseline();
}

}  // namespace

const KernelTable& cpu_kernels() {
  static const KernelTable table = choose();
  return table;
}

}  // namespace onepass
