// parallel.h - threads of the OpenMP runtime that torch has already loaded.
//
// onepass links no OpenMP: a second runtime in the process would keep a second team of threads spinning
// against torch's. The runtime is looked up at load (parallel.cpp); without one, work runs on the caller.
#pragma once

namespace onepass {

// Calls body(context) on up to `threads` threads at once and waits for all. The body shares the work out
// itself by atomic counters, so fewer threads than asked for (a nested region, a limit) is no error. With
// one thread no region is opened, which keeps a forked DataLoader worker safe.
void parallel_run(int threads, void (*body)(void*), void* context);

// The number of the calling thread within its parallel region; 0 for the thread that opened it, and outside.
int thread_number();

// Work that the calling thread does first in its next parallel_run, while the other threads begin with the
// body. One at a time.
class BesideParallel {
 public:
  BesideParallel(void (*work)(void*), void* context);
  ~BesideParallel();
  BesideParallel(const BesideParallel&) = delete;
  BesideParallel& operator=(const BesideParallel&) = delete;

 private:
  friend void parallel_run(int threads, void (*body)(void*), void* context);
  void run();

  void (*work_)(void*);
  void* context_;
};

// Path of the OpenMP runtime in use, or nullptr when there is none and everything runs on one thread.
const char* openmp_path();

}  // namespace onepass
