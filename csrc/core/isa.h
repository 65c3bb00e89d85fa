// isa.h - which of the compiled CPU instruction sets runs, decided once when the module is loaded.
#pragma once

#include <string>
#include <vector>

namespace onepass {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The best one that was compiled and that this processor has, or the lower one that the environment
// variable ONEPASS_ISA (baseline, avx2, avx512) asks for. Throws RuntimeError for a name that is unknown,
// was not compiled or does not run here: a test that asks for an ISA never gets another one silently.
Isa isa();

const char* name_of(Isa);
std::vector<std::string> compiled_isas();

}  // namespace onepass
