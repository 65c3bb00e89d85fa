// probe.cpp - the plainest loops with given reads and writes: what benchmarks call the bandwidth. They share
// nothing with loops/, so that a slow loop cannot make itself look good.

#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/parallel.h"
#include "kernels/kernels.h"

namespace onepass::ONEPASS_ISA {
namespace {

// part(begin, end) for n elements, cut in a contiguous part for each thread.
template <class Part>
struct PartWork {
  const Part& part;
  int64_t n;
  int parts;
  int next;

  static void run(void* self) {
    PartWork& work = *static_cast<PartWork*>(self);
    while (true) {
      const int i = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED);
      if (i >= work.parts) return;
      work.part(work.n * i / work.parts, work.n * (i + 1) / work.parts);
    }
  }
};

template <class Part>
void for_parts(int64_t n, int threads, const Part& part) {
  PartWork<Part> work{part, n, threads, 0};
  parallel_run(threads, work.run, &work);
}

// The number of arrays is known to the compiler, so that one loop walks them all.
template <int Reads, int Writes>
ONEPASS_WALK void probe_part(const float* const* reads, float* const* writes, int64_t begin, int64_t end) {
  const float* r[Reads];
  float* w[Writes];
  for (int k = 0; k < Reads; ++k) r[k] = reads[k];
  for (int k = 0; k < Writes; ++k) w[k] = writes[k];
  ONEPASS_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) {
    float sum = 0;
    for (int k = 0; k < Reads; ++k) sum += r[k][i];
    for (int k = 0; k < Writes; ++k) w[k][i] = 0.5f * w[k][i] + sum;
  }
}

// Past the caches where the instruction set allows it: a line that is written whole need not be read first.
// Wider stores are no faster, 256 bytes at a time are (docs/decisions.md).
void copy_part(const float* from, float* to, int64_t n) {
  int64_t i = 0;
#if defined(__SSE2__)
  constexpr int64_t kLine = 16, kBlock = 64;
  for (; i < n && reinterpret_cast<uintptr_t>(to + i) % (kLine * sizeof(float)) != 0; ++i) to[i] = from[i];
  for (; i + kBlock <= n; i += kBlock) {
    for (int64_t k = i; k < i + kBlock; k += 4) _mm_stream_ps(to + k, _mm_loadu_ps(from + k));
  }
  _mm_sfence();
#endif
  std::memcpy(to + i, from + i, size_t(n - i) * sizeof(float));
}

// Also past the caches: 16 bytes become a line of 16 floats.
void widen_part(const uint8_t* from, float* to, int64_t n) {
  int64_t i = 0;
#if defined(__SSE2__)
  constexpr int64_t kLine = 16;
  for (; i < n && reinterpret_cast<uintptr_t>(to + i) % (kLine * sizeof(float)) != 0; ++i) to[i] = from[i];
  const __m128i zero = _mm_setzero_si128();
  for (; i + kLine <= n; i += kLine) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    const __m128i low = _mm_unpacklo_epi8(bytes, zero), high = _mm_unpackhi_epi8(bytes, zero);
    _mm_stream_ps(to + i, _mm_cvtepi32_ps(_mm_unpacklo_epi16(low, zero)));
    _mm_stream_ps(to + i + 4, _mm_cvtepi32_ps(_mm_unpackhi_epi16(low, zero)));
    _mm_stream_ps(to + i + 8, _mm_cvtepi32_ps(_mm_unpacklo_epi16(high, zero)));
    _mm_stream_ps(to + i + 12, _mm_cvtepi32_ps(_mm_unpackhi_epi16(high, zero)));
  }
  _mm_sfence();
#endif
  for (; i < n; ++i) to[i] = from[i];
}

// A row of an image, turned by about 7 degrees and enlarged by so much that all taps are inside. The rows of
// the image that will be read soon are asked for: else the loop waits for each.
void turn_row(const uint8_t* image, int64_t side, int64_t y, float* to) {
  constexpr int64_t kOne = 1 << 16, kAlong = int64_t(0.86 * kOne), kAcross = int64_t(0.11 * kOne);
  // Twice the distances from the middle, which may be half of a pixel.
  const int64_t last = side - 1, below = 2 * y - last, row = side * 3;
  int64_t across = (last * kOne - last * kAlong - below * kAcross) / 2,
          down = (last * kOne - last * kAcross + below * kAlong) / 2;
  for (int64_t i = 0; i < row; i += 64) ONEPASS_PREFETCH(image + (y + side / 8) * row + i);
  int64_t x = 0;
  const auto next = [&] {
    const uint8_t* place = image + (down >> 16) * row + (across >> 16) * 3;
    across += kAlong;
    down += kAcross;
    return place;
  };
#if defined(__SSE2__)
  const auto both = [&] {
    const uint8_t* place = next();
    const __m128i upper = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(place));
    return _mm_castsi128_ps(
        _mm_unpacklo_epi64(upper, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(place + row))));
  };
  if (reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    for (; x + 4 <= side; x += 4, to += 12) {
      const __m128 a = both(), b = both(), c = both(), d = both();
      const __m128 front = _mm_shuffle_ps(a, b, _MM_SHUFFLE(0, 0, 2, 2)),
                   back = _mm_shuffle_ps(c, d, _MM_SHUFFLE(0, 0, 2, 2));
      _mm_stream_ps(to, _mm_shuffle_ps(a, front, _MM_SHUFFLE(2, 0, 1, 0)));
      _mm_stream_ps(to + 4, _mm_shuffle_ps(b, c, _MM_SHUFFLE(1, 0, 2, 1)));
      _mm_stream_ps(to + 8, _mm_shuffle_ps(back, d, _MM_SHUFFLE(2, 1, 2, 0)));
    }
  }
#endif
  for (; x < side; ++x, to += 3) {
    const uint8_t* place = next();
    std::memcpy(to, place, 8);
    std::memcpy(to + 2, place + row, 4);
  }
}

}  // namespace

void probe_taps(const uint8_t* from, float* to, int64_t count, int64_t side, const Launch& launch) {
  for_parts(count * side, launch.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      turn_row(from + row / side * side * side * 3, side, row % side, to + row * side * 3);
    }
  });
}

void probe_widen(const uint8_t* from, float* to, int64_t n, const Launch& launch) {
  for_parts(n, launch.threads,
            [&](int64_t begin, int64_t end) { widen_part(from + begin, to + begin, end - begin); });
}

void probe_copy(const float* from, float* to, int64_t n, const Launch& launch) {
  for_parts(n, launch.threads,
            [&](int64_t begin, int64_t end) { copy_part(from + begin, to + begin, end - begin); });
}

void probe(const float* const* reads, int read_count, float* const* writes, int write_count, int64_t n,
           const Launch& launch) {
  for_parts(n, launch.threads, [&](int64_t begin, int64_t end) {
    if (read_count == 1 && write_count == 1) probe_part<1, 1>(reads, writes, begin, end);
    if (read_count == 1 && write_count == 2) probe_part<1, 2>(reads, writes, begin, end);
    if (read_count == 1 && write_count == 3) probe_part<1, 3>(reads, writes, begin, end);
    if (read_count == 1 && write_count == 4) probe_part<1, 4>(reads, writes, begin, end);
  });
}

}  // namespace onepass::ONEPASS_ISA
