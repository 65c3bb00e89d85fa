#include "core/isa.h"

#include <cstdlib>

#include "core/check.h"

namespace onepass {
namespace {

bool runs_here(Isa isa) {
#if defined(ONEPASS_X86)
  // The flag sets are those of x86-64-v3 and x86-64-v4, which cmake/cpu.cmake compiles for; what
  // every processor with AVX2 has (lzcnt, movbe) is not asked for, as older compilers have no name for it.
  switch (isa) {
    case Isa::kBaseline:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
             __builtin_cpu_supports("f16c");
    case Isa::kAvx512:
      return runs_here(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  return false;
#else
  return isa == Isa::kBaseline;
#endif
}

Isa choose() {
#if defined(ONEPASS_X86)
  __builtin_cpu_init();
#endif
  const char* wanted = std::getenv("ONEPASS_ISA");
  if (wanted && *wanted) {
    for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
      if (std::string(wanted) == name_of(isa)) {
        OP_CHECK(runs_here(isa), RuntimeError, "ONEPASS_ISA=", wanted, " does not run on this processor");
        return isa;
      }
    }
    throw RuntimeError(concat("ONEPASS_ISA must be baseline, avx2 or avx512, got ", wanted));
  }
  for (Isa isa : {Isa::kAvx512, Isa::kAvx2}) {
    if (runs_here(isa)) return isa;
  }
  return Isa::kBaseline;
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return "baseline";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "?";
}

std::vector<std::string> compiled_isas() {
#if defined(ONEPASS_X86)
  return {"baseline", "avx2", "avx512"};
#else
  return {"baseline"};
#endif
}

}  // namespace onepass
