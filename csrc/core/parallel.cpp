#include "core/parallel.h"

#include <string>
#include <thread>

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>

#include <cstring>
#endif

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace onepass {
namespace {

// GCC's entry point for `#pragma omp parallel`. LLVM's and Intel's runtimes export it too.
using GompParallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
// omp_get_thread_num.
using ThreadNumber = int (*)();

struct Runtime {
  GompParallel parallel = nullptr;
  ThreadNumber number = nullptr;
  std::string path;
};

#if defined(__linux__)
int find_loaded(dl_phdr_info* info, size_t, void* found) {
  const char* slash = std::strrchr(info->dlpi_name, '/');
  const char* file = slash ? slash + 1 : info->dlpi_name;
  for (const char* stem : {"libgomp", "libiomp5", "libomp"}) {
    if (std::strncmp(file, stem, std::strlen(stem)) == 0) {
      *static_cast<std::string*>(found) = info->dlpi_name;
      return 1;
    }
  }
  return 0;
}

Runtime resolve() {
  Runtime runtime;
  void* handle = nullptr;
  // A symbol looked up through libtorch_cpu is found in that library's own dependencies: the runtime torch
  // uses, even if another one was loaded earlier.
  if (void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD)) handle = torch;
  if (!handle) {
    dl_iterate_phdr(find_loaded, &runtime.path);
    handle = dlopen(runtime.path.empty() ? "libgomp.so.1" : runtime.path.c_str(), RTLD_LAZY);
  }
  if (!handle) return runtime;
  runtime.parallel = reinterpret_cast<GompParallel>(dlsym(handle, "GOMP_parallel"));
  runtime.number = reinterpret_cast<ThreadNumber>(dlsym(handle, "omp_get_thread_num"));
  Dl_info where;
  if (runtime.parallel && dladdr(reinterpret_cast<void*>(runtime.parallel), &where)) {
    runtime.path = where.dli_fname;
  }
  return runtime;
}
#else
Runtime resolve() { return {}; }
#endif

const Runtime& runtime() {
  static const Runtime found = resolve();
  return found;
}

#if defined(__SANITIZE_THREAD__)
// The runtime is not compiled for ThreadSanitizer, which therefore has to be told what a region orders: all
// that the caller did before it goes before the body, and the body before all that the caller does
// afterwards.
void open_region(GompParallel parallel, void (*body)(void*), void* context, unsigned threads) {
  struct Region {
    void (*body)(void*);
    void* context;
  } region{body, context};
  const auto run = [](void* given) {
    __tsan_acquire(given);
    const Region& own = *static_cast<Region*>(given);
    own.body(own.context);
    __tsan_release(given);
  };
  __tsan_release(&region);
  parallel(run, &region, threads, 0);
  __tsan_acquire(&region);
}
#else
void open_region(GompParallel parallel, void (*body)(void*), void* context, unsigned threads) {
  parallel(body, context, threads, 0);
}
#endif

// This thread's work that is not done yet.
thread_local BesideParallel* beside = nullptr;

void run_on_threads(int threads, void (*body)(void*), void* context) {
  if (threads > 1 && runtime().parallel) {
    open_region(runtime().parallel, body, context, static_cast<unsigned>(threads));
  } else {
    body(context);
  }
}

}  // namespace

BesideParallel::BesideParallel(void (*work)(void*), void* context) : work_(work), context_(context) {
  beside = this;
}

BesideParallel::~BesideParallel() {
  if (beside == this) beside = nullptr;
}

void BesideParallel::run() {
  beside = nullptr;
  work_(context_);
}

void parallel_run(int threads, void (*body)(void*), void* context) {
  if (!beside) return run_on_threads(threads, body, context);
  struct Both {
    void (*body)(void*);
    void* context;
    BesideParallel* first;
    std::thread::id caller = std::this_thread::get_id();
  } both{body, context, beside};
  const auto run = [](void* given) {
    Both& all = *static_cast<Both*>(given);
    if (std::this_thread::get_id() == all.caller) all.first->run();
    all.body(all.context);
  };
  run_on_threads(threads, run, &both);
}

int thread_number() { return runtime().number ? runtime().number() : 0; }

const char* openmp_path() { return runtime().parallel ? runtime().path.c_str() : nullptr; }

}  // namespace onepass
