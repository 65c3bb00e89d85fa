// interleave.h - three channels, each a register or a plane, to pixels that are stored past the caches, on
// the CPU: from register to memory, without a strip of pixels in between.
#pragma once

#include <cstdint>

#include "loops/images/pixels.h"
#include "loops/images/wide.h"

namespace onepass::ONEPASS_ISA {

#if defined(__AVX512F__)
// Element k of three vectors of pixels is channel k % 3 of pixel k / 3. Two shuffles make a vector: one takes
// the first two channels, the other puts the third between them.
struct PixelOrder {
  alignas(64) int32_t pair[3][16];
  alignas(64) int32_t third[3][16];
  constexpr PixelOrder() : pair{}, third{} {
    for (int v = 0; v < 3; ++v) {
      for (int e = 0; e < 16; ++e) {
        const int pixel = (16 * v + e) / 3, channel = (16 * v + e) % 3;
        pair[v][e] = channel < 2 ? 16 * channel + pixel : 0;
        third[v][e] = channel < 2 ? e : 16 + pixel;
      }
    }
  }
};

constexpr bool kInterleavesLines = true;
constexpr int64_t kLinePixels = 16;

ONEPASS_HD void interleave_wide(Wide a, Wide b, Wide c, Wide (&to)[3]) {
  static constexpr PixelOrder kOrder;
  ONEPASS_UNROLLED
  for (int v = 0; v < 3; ++v) {
    const __m512 pair = _mm512_permutex2var_ps(a.lanes, _mm512_load_si512(kOrder.pair[v]), b.lanes);
    to[v] = Wide(_mm512_permutex2var_ps(pair, _mm512_load_si512(kOrder.third[v]), c.lanes));
  }
}

// n: a multiple of kLinePixels; to: where a line begins.
ONEPASS_WALK inline void interleave_lines(const Planes planes, float* to, int64_t n) {
  const float *first = planes[0], *second = planes[1], *last = planes[2];
  for (int64_t i = 0; i < n; i += kLinePixels, to += 3 * kLinePixels) {
    Wide pixels[3] = {Wide::load(first + i), Wide::load(second + i), Wide::load(last + i)};
    interleave_wide(pixels[0], pixels[1], pixels[2], pixels);
    ONEPASS_UNROLLED
    for (int v = 0; v < 3; ++v) pixels[v].store(to + 16 * v, true);
  }
}
#else
constexpr bool kInterleavesLines = false;
constexpr int64_t kLinePixels = 1;
inline void interleave_lines(const Planes&, float*, int64_t) {}
#endif

}  // namespace onepass::ONEPASS_ISA
