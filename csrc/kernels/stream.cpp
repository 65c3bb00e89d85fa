// stream.cpp - the plainest loops with given reads and writes: what benchmarks call the bandwidth. They share
// nothing with loops/, so that a slow loop cannot make itself look good.

#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/parallel.h"
#include "kernels/kernels.h"

namespace onepass::ONEPASS_ISA {
namespace {

constexpr int kMaxArrays = 5;

struct StreamWork {
  const float* const* reads;
  int read_count;
  float* const* writes;
  int write_count;
  int64_t n;
  int threads;
  int next;
};

// The number of arrays is known to the compiler, so that all of them stream in one loop.
template <int Reads, int Writes>
void stream_part(const StreamWork& work, int64_t begin, int64_t end) {
  const float* r[kMaxArrays];
  float* w[kMaxArrays];
  for (int k = 0; k < Reads; ++k) r[k] = work.reads[k];
  for (int k = 0; k < Writes; ++k) w[k] = work.writes[k];
  ONEPASS_INDEPENDENT
  for (int64_t i = begin; i < end; ++i) {
    float sum = 0;
    for (int k = 0; k < Reads; ++k) sum += r[k][i];
    for (int k = 0; k < Writes; ++k) w[k][i] = 0.5f * w[k][i] + sum;
  }
}

void stream_thread(void* shared) {
  StreamWork& work = *static_cast<StreamWork*>(shared);
  while (true) {
    const int part = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED);
    if (part >= work.threads) return;
    const int64_t begin = work.n * part / work.threads, end = work.n * (part + 1) / work.threads;
    if (work.read_count == 1 && work.write_count == 1) stream_part<1, 1>(work, begin, end);
    if (work.read_count == 1 && work.write_count == 2) stream_part<1, 2>(work, begin, end);
    if (work.read_count == 1 && work.write_count == 3) stream_part<1, 3>(work, begin, end);
    if (work.read_count == 1 && work.write_count == 4) stream_part<1, 4>(work, begin, end);
  }
}

struct CopyWork {
  const float* from;
  float* to;
  int64_t n;
  int threads;
  int next;
};

// Past the caches where that can be said: a line that is written whole need not be read first. Wider stores
// are no faster, 256 bytes at a time are (docs/decisions.md).
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

void copy_thread(void* shared) {
  CopyWork& work = *static_cast<CopyWork*>(shared);
  while (true) {
    const int part = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED);
    if (part >= work.threads) return;
    const int64_t begin = work.n * part / work.threads, end = work.n * (part + 1) / work.threads;
    copy_part(work.from + begin, work.to + begin, end - begin);
  }
}

}  // namespace

void copy(const float* from, float* to, int64_t n, const Launch& launch) {
  CopyWork work{from, to, n, launch.threads, 0};
  parallel_run(launch.threads, copy_thread, &work);
}

void stream(const float* const* reads, int read_count, float* const* writes, int write_count, int64_t n,
            const Launch& launch) {
  StreamWork work{reads, read_count, writes, write_count, n, launch.threads, 0};
  parallel_run(launch.threads, stream_thread, &work);
}

}  // namespace onepass::ONEPASS_ISA
