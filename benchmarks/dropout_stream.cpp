// dropout_stream.cpp - the random bytes of dropout as it uses them, without end, for a public generator test.
//
//   g++ -O3 -march=native -std=c++17 -I csrc benchmarks/dropout_stream.cpp -o stream
//   ./stream call  | dieharder -g 200 -a      one call: the draws of its elements in order
//   ./stream calls | dieharder -g 200 -a      the first 4096 draws of calls with seeds 0, 1, 2, ...
#include <cstdio>
#include <cstring>

#include "loops/draws/kept.h"

namespace {

using namespace onepass::ONEPASS_ISA;
using onepass::math::kFirstDraw;

constexpr uint64_t kSeed = 20261125;
constexpr int64_t kBytes = 4096;

}  // namespace

int main(int count, char** words) {
  const bool calls = count == 2 && std::strcmp(words[1], "calls") == 0;
  if (!calls && (count != 2 || std::strcmp(words[1], "call") != 0)) {
    std::fprintf(stderr, "dropout_stream: the argument must be call or calls\n");
    return 1;
  }
  alignas(64) static uint32_t drawn[kBytes / 4];
  for (uint64_t i = 0;; ++i) {
    const auto dropout = onepass::math::Dropout::make(0.5, calls ? i : kSeed);
    const uint64_t first = calls ? 0 : i * (kBytes / kEach);
    draw_blocks_from(first, kFirstDraw[0], kFirstDraw[1], dropout.seed, kBytes / kDrawsAtOnce, Nothing{},
                     drawn);
    if (std::fwrite(drawn, 1, kBytes, stdout) != size_t(kBytes)) return 0;
  }
}
