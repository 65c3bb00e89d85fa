// stream.cpp - the plainest loop with given reads and writes: what benchmarks call the bandwidth. It shares
// nothing with loops/, so that a slow loop cannot make itself look good.

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

}  // namespace

void stream(const float* const* reads, int read_count, float* const* writes, int write_count, int64_t n,
            const Launch& launch) {
  StreamWork work{reads, read_count, writes, write_count, n, launch.threads, 0};
  parallel_run(launch.threads, stream_thread, &work);
}

}  // namespace onepass::ONEPASS_ISA
